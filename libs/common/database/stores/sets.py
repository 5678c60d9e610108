"""Set-based statements: many rows travel as one JSON document, so that a group of any size costs one statement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult

from libs.common.database.records import Lease

T = TypeVar("T")


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as the document that `jsonb_to_recordset` reads."""
    return json.dumps(list(rows), separators=(",", ":"), ensure_ascii=False)


def records(record: type[T], result: CursorResult[*tuple[Any, ...]]) -> list[T]:
    """Each row as a `record`, column by name."""
    return [record(**row) for row in result.mappings()]


def columns_of(record: type[Any], table: sa.Table) -> tuple[str, ...]:
    """The columns of `table` that have a field of their name in the dataclass `record`, in the order of its fields."""
    return tuple(field.name for field in fields(record) if field.name in table.c)


def listed(columns: Iterable[str], alias: str) -> str:
    """The columns of the row `alias` as a list in SQL."""
    return ", ".join(f"{alias}.{name}" for name in columns)


# The claims of `claims_as_arrays` as rows, to be joined by generation and token.
CLAIMS = """unnest(CAST(:ids AS text[]), CAST(:tokens AS bigint[])) AS claim(generation_id, lease_token)"""


def claims_as_arrays(claims: Iterable[Lease]) -> dict[str, list[Any]]:
    """The parameters that `CLAIMS` reads: the generations' ids, and the tokens of the claims in the same order."""
    found = list(claims)
    return {"ids": [claim.generation_id for claim in found], "tokens": [claim.token for claim in found]}


def statement(sql: str) -> sa.TextClause:
    """A statement with named parameters (`:name`)."""
    return sa.text(sql)
