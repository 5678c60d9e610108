"""The columns of new generations: of requests, of batches, and of continuations."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Float, Integer, LargeBinary, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB

from libs.common.database.records import NewGeneration
from libs.common.database.schema.generations import generation_requests
from libs.common.database.stores.sets import listed

# Read by name, since `asdict` would copy input images of several megabytes.
_FIELDS = tuple(field.name for field in fields(NewGeneration))

_OWN_COLUMNS = frozenset(
    {
        "id",
        "state",
        "turn_at",
        "fallback_path",
        "attempts",
        "attempts_elsewhere",
        "store_attempts",
        "next_attempt_at",
        "lease_owner",
        "lease_until",
        "lease_token",
        "provider_task_id",
        "sources",
        "outputs",
        "error",
        "cost_usd",
        "continues_id",
        "waits_for",
        "is_late",
        "rerun_of_id",
        "reused_from_id",
        "deleted_at",
        "cancel_requested_at",
        "created_at",
        "released_at",
        "updated_at",
        "submitted_at",
        "ended_at",
    }
)
"""The columns that a continuation does not copy."""
COPIED_COLUMNS = tuple(column.name for column in generation_requests.columns if column.name not in _OWN_COLUMNS)
"""The columns of the request, which a continuation copies."""
_INSERTED = ("id", *COPIED_COLUMNS, "rerun_of_id")
COLUMNS = ", ".join(_INSERTED)
"""The columns that a new generation is inserted with."""
COPIED = ", ".join(COPIED_COLUMNS)
"""The same as a list in SQL."""


# A hash travels in hexadecimal.
_TYPES: dict[type[Any], str] = {
    Text: "text",
    JSONB: "jsonb",
    SmallInteger: "smallint",
    Integer: "int",
    Float: "float",
    Numeric: "numeric",
    LargeBinary: "text",
}
RECORD = ", ".join(f"{name} {_TYPES[type(generation_requests.c[name].type)]}" for name in _INSERTED)
"""`COLUMNS` with their types, as `jsonb_to_recordset` reads them from `row_of`."""


def copied(alias: str) -> str:
    """Return the values of `COPIED` of the row `alias`, as a list in SQL."""
    return listed(COPIED_COLUMNS, alias)


def inserted(alias: str, **others: str) -> str:
    """Return the values of `COLUMNS` of a `RECORD`, as a list in SQL.

    Args:
        alias: the record.
        others: SQL in place of the record's own value, by column.
    """
    values = {name: f"{alias}.{name}" for name in _INSERTED}
    values["request_hash"] = f"decode({alias}.request_hash, 'hex')"
    return ", ".join((values | others).values())


# Only results in our object storage: the URL of a provider may have expired.
REUSABLE = """
    SELECT g.id, g.outputs FROM generation_requests g
    WHERE g.owner = row.owner AND g.request_hash = decode(row.request_hash, 'hex')
        AND g.state = 'SUCCESS' AND g.reused_from_id IS NULL AND g.deleted_at IS NULL
        AND g.ended_at > now() - make_interval(secs => row.within_seconds)
        AND NOT jsonb_path_exists(g.outputs, '$[*] ? (!exists(@.object_key))')
    ORDER BY g.created_at DESC LIMIT 1 FOR SHARE"""
"""The earlier generation whose result `row` may take: it has the owner, the request_hash and within_seconds.

It is locked until the reuse has committed: a delete waits for that and then sees that its files are shared, and a
reuse that waits for a delete finds the next candidate, or none.
"""

IDEMPOTENCY_HOURS = 24
"""How long an idempotency key identifies one request or batch."""


def row_of(generation: NewGeneration) -> dict[str, Any]:
    """Return the generation as a row of `RECORD`."""
    row = {name: getattr(generation, name) for name in _FIELDS}
    row["fallbacks"] = [asdict(fallback) for fallback in generation.fallbacks]
    row["images_from"] = [asdict(image) for image in generation.images_from]
    return row
