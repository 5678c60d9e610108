"""Batches as the gateway takes them in and shows them: parts gathered, opened at once, read, cancelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.ranges import ANY
from libs.common.database.records_batches import BatchRecord, BatchRequest, Dependency, NewBatch, Opened
from libs.common.database.records_edge import Admission, KeyUsage
from libs.common.database.states import BatchStatus
from libs.common.database.stores.batch_steps import fill
from libs.common.database.stores.inserting import (
    COLUMNS,
    IDEMPOTENCY_HOURS,
    RECORD,
    REUSABLE,
    inserted,
    row_of,
)
from libs.common.database.stores.sets import records, rows_as_json, statement
from libs.common.database.stores.usage import count_tokens, hold_usage, read_usage, unknown_usage
from libs.common.errors import ErrorCode, FieldViolation, GenerationError

AdmitBatch = Callable[[KeyUsage, int, float], Admission]

_PUT = statement("""
INSERT INTO batch_uploads (batch_id, part, requests) VALUES (:batch_id, :part, CAST(:requests AS jsonb))""")
_DROP = statement("DELETE FROM batch_uploads WHERE batch_id = :batch_id")

# A name whose day is over is free; one that somebody uses at this moment is waited for.
_FREE_NAME = statement(f"""
UPDATE generation_batches SET idempotency_key = NULL, request_digest = NULL
WHERE owner = :owner AND idempotency_key = :idempotency_key
    AND created_at < now() - interval '{IDEMPOTENCY_HOURS} hours'""")
_IS_NAMED = statement(f"""
SELECT EXISTS (SELECT FROM generation_batches WHERE owner = :owner AND idempotency_key = :idempotency_key
    AND created_at >= now() - interval '{IDEMPOTENCY_HOURS} hours')""")
_NAMED = statement("""
SELECT id, request_digest FROM generation_batches WHERE owner = :owner AND idempotency_key = :idempotency_key""")

_INSERT_BATCH = statement("""
INSERT INTO generation_batches (id, owner, api_key_id, request_id, total_tasks, is_parallel, max_concurrency,
    stop_on_error, priority, budget_usd, callback_url, callback_every_tasks, callback_every_seconds, estimated_low_usd,
    estimated_usd, estimated_high_usd, estimated_seconds, idempotency_key, request_digest)
VALUES (:id, :owner, :api_key_id, :request_id, :total_tasks, :is_parallel, :max_concurrency, :stop_on_error, :priority,
    :budget_usd, :callback_url, :callback_every_tasks, :callback_every_seconds, :low_usd, :expected_usd, :high_usd,
    :expected_seconds, :idempotency_key, :request_digest)
ON CONFLICT (owner, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
RETURNING id""")

_INSERT_DEPENDENCIES = statement("""
INSERT INTO batch_dependencies (batch_id, batch_index, needs_index, is_required)
SELECT :batch_id, batch_index, needs_index, is_required FROM jsonb_to_recordset(CAST(:rows AS jsonb))
    AS row(batch_index int, needs_index int, is_required bool)""")

_INSERT_PART = statement(f"""
INSERT INTO generation_requests ({COLUMNS}, state, reused_from_id, outputs, cost_usd, ended_at, waits_for)
SELECT {inserted("row", reserved_usd="CASE WHEN found.id IS NULL THEN row.reserved_usd ELSE 0 END")},
    CASE WHEN found.id IS NULL THEN 'HELD' ELSE 'SUCCESS' END,
    found.id, found.outputs, CASE WHEN found.id IS NOT NULL THEN 0 END, CASE WHEN found.id IS NOT NULL THEN now() END,
    CASE WHEN found.id IS NULL THEN (
        SELECT count(*) FROM batch_dependencies d WHERE d.batch_id = row.batch_id AND d.batch_index = row.batch_index)
    ELSE 0 END
FROM batch_uploads u CROSS JOIN LATERAL jsonb_to_recordset(u.requests) AS row({RECORD}, within_seconds int)
LEFT JOIN LATERAL ({REUSABLE}) found ON row.within_seconds > 0
WHERE u.batch_id = :batch_id AND u.part = :part""")

_COLUMNS = """
    b.id, b.owner, b.api_key_id, b.request_id, b.total_tasks, b.is_parallel, b.max_concurrency, b.stop_on_error,
    b.priority, b.budget_usd, b.callback_url, b.callback_every_tasks, b.callback_every_seconds, b.estimated_low_usd,
    b.estimated_usd, b.estimated_high_usd, b.estimated_seconds,
    CAST(b.completed_tasks + lines.completed_tasks AS int) AS completed_tasks,
    CAST(b.failed_tasks + lines.failed_tasks AS int) AS failed_tasks,
    CAST(b.cancelled_tasks + lines.cancelled_tasks AS int) AS cancelled_tasks,
    CAST(b.skipped_tasks + lines.skipped_tasks AS int) AS skipped_tasks,
    CAST(b.cost_usd + lines.cost_usd AS float) AS cost_usd, b.stopped_at, b.cancel_requested_at, b.created_at,
    COALESCE(b.ended_at, CASE WHEN b.completed_tasks + b.failed_tasks + b.cancelled_tasks + b.skipped_tasks
        + lines.ended_tasks = b.total_tasks THEN COALESCE(lines.last_at, now()) END) AS ended_at, now() AS now"""
_LINES = """
CROSS JOIN LATERAL (
    SELECT COALESCE(sum(completed_tasks), 0) AS completed_tasks, COALESCE(sum(failed_tasks), 0) AS failed_tasks,
        COALESCE(sum(cancelled_tasks), 0) AS cancelled_tasks, COALESCE(sum(skipped_tasks), 0) AS skipped_tasks,
        COALESCE(sum(cost_usd), 0) AS cost_usd, max(at) AS last_at,
        COALESCE(sum(completed_tasks + failed_tasks + cancelled_tasks + skipped_tasks), 0) AS ended_tasks
    FROM batch_ledger WHERE batch_id = b.id) lines"""
_READ = f"SELECT {_COLUMNS} FROM generation_batches b {_LINES}"
_GET = statement(f"{_READ} WHERE b.id = :id AND (CAST(:owner AS text) IS NULL OR b.owner = :owner)")
_LIST = statement(f"""{_READ}
WHERE (CAST(:owner AS text) IS NULL OR b.owner = :owner) AND (CAST(:before AS text) IS NULL OR b.id < :before)
ORDER BY b.id DESC LIMIT :limit""")

# What a watcher is told of. Equal stamps: nothing changed.
_CHANGED = statement(f"""
SELECT stamped.* FROM (
    SELECT found.*, concat_ws('.', completed_tasks, failed_tasks, cancelled_tasks, skipped_tasks,
        (stopped_at IS NOT NULL)::int, (cancel_requested_at IS NOT NULL)::int) AS stamp
    FROM ({_READ} WHERE b.id = ANY(:ids)) found) stamped
JOIN unnest(CAST(:ids AS text[]), CAST(:stamps AS text[])) AS known(id, stamp) USING (id)
WHERE known.stamp IS DISTINCT FROM stamped.stamp""")

_CANCEL = statement("""
UPDATE generation_batches SET cancel_requested_at = COALESCE(cancel_requested_at, now())
WHERE id = :id AND (CAST(:owner AS text) IS NULL OR owner = :owner) AND ended_at IS NULL""")


@dataclass(frozen=True, slots=True)
class BatchChange:
    """A batch as it stands, and the stamp that will differ once it has changed again."""

    record: BatchRecord
    stamp: str

    @property
    def id(self) -> str:
        """What has changed."""
        return self.record.id

    @property
    def is_final(self) -> bool:
        """Whether it will not change again unless it is resumed."""
        return self.record.status is not BatchStatus.PROCESSING


class BatchStore:
    """What the gateway writes and reads of batches. `owner`: whose alone there are; None: everybody's.

    Args:
        database: where the rows are.
        admit: decides whether a key's quota lets a batch in, by how many may be under way at once and what it reserves,
            in US dollars. Pure: it may be asked again.
    """

    def __init__(self, database: Database, admit: AdmitBatch) -> None:
        self._database = database
        self._admit = admit

    async def is_named(self, owner: str, idempotency_key: str) -> bool:
        """Whether the owner has used that name for a batch, and still may not for another."""
        if not idempotency_key:
            return False
        name = {"owner": owner, "idempotency_key": idempotency_key}
        return await self._database.transaction(
            "find_batch_name", lambda c: bool(c.execute(_IS_NAMED, name).scalar_one())
        )

    async def check_room(self, api_key_id: str, places: int, reserved_usd: float) -> None:
        """Raise what the key's quota has against a batch, as things stand now; nothing is held or counted."""

        def work(connection: Connection) -> None:
            _admission(self._admit, read_usage(connection, [api_key_id]), places, reserved_usd)

        await self._database.transaction("check_batch_room", work)

    async def put(self, batch_id: str, part: int, rows: bytes) -> None:
        """Keep a part of a batch, made by `part_rows`, until it is opened or dropped."""
        parameters = {"batch_id": batch_id, "part": part, "requests": rows.decode()}
        await self._database.transaction("put_batch_part", lambda c: c.execute(_PUT, parameters))

    async def drop(self, batch_id: str) -> None:
        """Forget the parts of a batch that is not opened."""
        await self._database.transaction("drop_batch_parts", lambda c: c.execute(_DROP, {"batch_id": batch_id}))

    async def open(self, batch: NewBatch, dependencies: Sequence[Dependency], *, parts: int) -> Opened:
        """Make a batch of the parts that were put, all of it or nothing, and release as many as may be under way.

        Raises GenerationError ALREADY_EXISTS for an idempotency key that stands for another batch, and QUOTA_EXCEEDED
        and RATE_LIMITED where the key's quota does not let it in. SERVICE_UNAVAILABLE where parts are missing: they
        were removed as those of an upload that broke off, or Postgres has crashed.
        """

        def work(connection: Connection) -> Opened:
            earlier = _named(connection, batch) if batch.idempotency_key else None
            if earlier is None and not _inserted(connection, batch):
                # Somebody has committed one of the same name since the look.
                earlier = _named(connection, batch)
            if earlier is not None:
                connection.execute(_DROP, {"batch_id": batch.id})
                return Opened(_record(connection, earlier), is_repeat=True)
            if batch.is_bounded:
                places = min(batch.options.max_concurrency, batch.total_tasks)
                check_quota(connection, self._admit, batch.api_key_id, places, batch.reserved_usd)
            if dependencies:
                rows = rows_as_json(asdict(dependency) for dependency in dependencies)
                connection.execute(_INSERT_DEPENDENCIES, {"batch_id": batch.id, "rows": rows})
            inserted = sum(
                connection.execute(_INSERT_PART, {"batch_id": batch.id, "part": part}).rowcount for part in range(parts)
            )
            if inserted != batch.total_tasks:
                raise GenerationError(
                    ErrorCode.SERVICE_UNAVAILABLE,
                    "Parts of the batch were lost before it was committed, and nothing of it was kept; send it again.",
                )
            connection.execute(_DROP, {"batch_id": batch.id})
            fill(connection, ANY, batch.id)
            return Opened(_record(connection, batch.id))

        return await self._database.transaction("open_batch", work)

    async def get(self, batch_id: str, *, owner: str | None) -> BatchRecord | None:
        """The batch of that id, or None."""
        parameters = {"id": batch_id, "owner": owner}
        found = await self._database.transaction(
            "get_batch", lambda c: records(BatchRecord, c.execute(_GET, parameters))
        )
        return found[0] if found else None

    async def list_page(self, limit: int, *, owner: str | None, before: str | None) -> list[BatchRecord]:
        """At most `limit` batches, newest first, older than `before`."""
        parameters = {"limit": limit, "owner": owner, "before": before}
        return await self._database.transaction(
            "list_batches", lambda c: records(BatchRecord, c.execute(_LIST, parameters))
        )

    async def changes(self, stamps: Mapping[str, str]) -> list[BatchChange]:
        """Of the batches named by id, those whose stamp is another now. One statement for any number."""

        def work(connection: Connection) -> list[BatchChange]:
            found = connection.execute(_CHANGED, {"ids": list(stamps), "stamps": list(stamps.values())})
            return [_change(dict(row)) for row in found.mappings()]

        return await self._database.transaction("read_batch_changes", work)

    async def request_cancel(self, batch_id: str, *, owner: str | None) -> None:
        """Ask for a batch to be cancelled; nothing where it has ended or is not there."""
        parameters = {"id": batch_id, "owner": owner}
        await self._database.transaction("request_batch_cancel", lambda c: c.execute(_CANCEL, parameters))


def part_rows(requests: Sequence[BatchRequest]) -> bytes:
    """A part of a batch as it is stored."""
    return rows_as_json(
        {**row_of(request.generation), "within_seconds": request.reuse_within_seconds} for request in requests
    ).encode()


def check_quota(connection: Connection, admit: AdmitBatch, api_key_id: str, places: int, reserved_usd: float) -> None:
    """Raise what the key's quota has against so many more under way at once, and so much more reserved."""
    admission = _admission(admit, hold_usage(connection, [api_key_id]), places, reserved_usd)
    if admission.tokens is not None:
        count_tokens(connection, {api_key_id: admission.tokens})


def _admission(admit: AdmitBatch, usage: Sequence[KeyUsage], places: int, reserved_usd: float) -> Admission:
    if not usage:
        raise unknown_usage()
    admission = admit(usage[0], places, reserved_usd)
    (refusal,) = admission.refusals
    if refusal is not None:
        raise refusal
    return admission


def _inserted(connection: Connection, batch: NewBatch) -> bool:
    fields: dict[str, Any] = {
        **asdict(batch.options),
        **asdict(batch.estimate),
        "id": batch.id,
        "owner": batch.owner,
        "api_key_id": batch.api_key_id,
        "request_id": batch.request_id,
        "total_tasks": batch.total_tasks,
        "idempotency_key": batch.idempotency_key,
        "request_digest": batch.request_digest,
    }
    return connection.execute(_INSERT_BATCH, fields).scalar_one_or_none() is not None


def _named(connection: Connection, batch: NewBatch) -> str | None:
    """The batch that has the name already. ALREADY_EXISTS where that is another one than this."""
    name = {"owner": batch.owner, "idempotency_key": batch.idempotency_key}
    connection.execute(_FREE_NAME, name)
    found = connection.execute(_NAMED, name).one_or_none()
    if found is None:
        return None
    if bytes(found.request_digest) != batch.request_digest:
        raise GenerationError(
            ErrorCode.ALREADY_EXISTS,
            f"This idempotency key was used within {IDEMPOTENCY_HOURS} hours for {found.id}, another batch. Take "
            "another key for another batch.",
            {"batch_id": found.id},
            violations=[FieldViolation("idempotency_key", "same", "was used with another body")],
        )
    return str(found.id)


def _record(connection: Connection, batch_id: str) -> BatchRecord:
    (found,) = records(BatchRecord, connection.execute(_GET, {"id": batch_id, "owner": None}))
    return found


def _change(row: dict[str, Any]) -> BatchChange:
    stamp = row.pop("stamp")
    return BatchChange(BatchRecord(**row), stamp)
