"""Resuming a batch: what did not succeed is continued by new generations in the same places."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.stores.batch_steps import RELEASED_STATES, settle
from libs.common.database.stores.batches import AdmitBatch, check_quota
from libs.common.database.stores.inserting import COLUMNS, TURN_AT
from libs.common.database.stores.sets import rows_as_json, statement

_CHUNK = 1_000

# Held against whoever closes it or resumes it as well.
_HOLD = statement(f"""
SELECT b.api_key_id, b.max_concurrency, NOT EXISTS (
        SELECT FROM generation_requests g WHERE g.batch_id = b.id AND g.state IN {RELEASED_STATES})
    AND NOT EXISTS (
        SELECT FROM generation_requests g WHERE g.batch_id = b.id AND g.state = 'HELD') AS has_ended,
    k.id IS NOT NULL AND num_nonnulls(k.requests_per_minute, k.live_generations, k.monthly_budget_usd) > 0 AS is_bounded
FROM generation_batches b LEFT JOIN api_keys k ON k.id = b.api_key_id
WHERE b.id = :id AND (CAST(:owner AS text) IS NULL OR b.owner = :owner) FOR UPDATE OF b""")

_GO_ON = statement("UPDATE generation_batches SET stopped_at = NULL, cancel_requested_at = NULL WHERE id = :id")

# An uncertain submit that an operator has not resolved may be running: once more would be a second bill.
_RESUMABLE = statement("""
SELECT g.id, CAST(g.reserved_usd AS float) AS reserved_usd FROM generation_requests g
WHERE g.batch_id = :id AND g.state IN ('FAILED', 'CANCELLED')
    AND (cardinality(CAST(:codes AS text[])) = 0 OR g.error->>'code' = ANY(:codes))
    AND NOT EXISTS (SELECT FROM generation_requests later WHERE later.continues_id = g.id)
    AND NOT EXISTS (SELECT FROM submissions s WHERE s.generation_id = g.id AND s.state = 'UNCERTAIN'
        AND s.resolved_at IS NULL)
ORDER BY g.batch_index""")

_CONTINUED = ", ".join(f"g.{name.strip()}" for name in COLUMNS.split(",") if name.strip() != "id")
_INSERT = statement(f"""
INSERT INTO generation_requests (id, {", ".join(name.strip() for name in COLUMNS.split(",") if name.strip() != "id")},
    state, reserved_usd, request_hash, turn_at, continues_id, waits_for)
SELECT row.new_id, {_CONTINUED}, 'HELD', g.reserved_usd, g.request_hash, {TURN_AT}, g.id, (
    SELECT count(*) FROM batch_dependencies d WHERE d.batch_id = g.batch_id AND d.batch_index = g.batch_index)
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(id text, new_id text) JOIN generation_requests g USING (id)""")

_MAKERS = statement("""
SELECT DISTINCT d.needs_index FROM generation_requests g
JOIN batch_dependencies d ON d.batch_id = g.batch_id AND d.batch_index = g.batch_index
WHERE g.batch_id = :id AND g.state = 'HELD' AND g.waits_for > 0""")


class ResumeStore:
    """What the gateway writes of a batch that is to go on. Arguments as for `BatchStore`."""

    def __init__(self, database: Database, admit: AdmitBatch) -> None:
        self._database = database
        self._admit = admit

    async def resume(
        self, batch_id: str, codes: Sequence[str], *, owner: str | None, new_id: Callable[[], str]
    ) -> int | None:
        """Let a batch go on: what failed, was cancelled or skipped is held anew, if it ended for one of these `codes`.

        Without codes, for any of them. What succeeded, what has not ended, and what may have been paid for is left
        alone. Whoever looks after batches releases it. Said twice at once, each generation is continued once.

        Returns how many are continued; None where the caller has no such batch.
        Raises GenerationError QUOTA_EXCEEDED and RATE_LIMITED where the key's quota does not let it go on.
        """

        def work(connection: Connection) -> int | None:
            held = connection.execute(_HOLD, {"id": batch_id, "owner": owner}).one_or_none()
            if held is None:
                return None
            found = list(connection.execute(_RESUMABLE, {"id": batch_id, "codes": list(codes)}))
            if found and held.is_bounded:
                # What is under way of it has its places already.
                places = held.max_concurrency if held.has_ended else 0
                reserved_usd = sum(row.reserved_usd for row in found)
                check_quota(connection, self._admit, held.api_key_id, places, reserved_usd)
            if found or not held.has_ended:
                connection.execute(_GO_ON, {"id": batch_id})
            _insert(connection, [row.id for row in found], new_id)
            makers = connection.execute(_MAKERS, {"id": batch_id}).scalars()
            settle(connection, [(batch_id, index) for index in makers])
            return len(found)

        return await self._database.transaction("resume_batch", work)


def _insert(connection: Connection, ids: Sequence[str], new_id: Callable[[], str]) -> None:
    for start in range(0, len(ids), _CHUNK):
        rows = rows_as_json({"id": old, "new_id": new_id()} for old in ids[start : start + _CHUNK])
        connection.execute(_INSERT, {"rows": rows})
