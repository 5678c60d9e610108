"""Resumes batches: new generations in the same places continue those that did not succeed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection, Row

from libs.common.database.engine import Database
from libs.common.database.stores.batch_steps import RELEASED_STATES, settle
from libs.common.database.stores.batches import AdmitBatch, check_quota
from libs.common.database.stores.inserting import COPIED, copied
from libs.common.database.stores.second_payment import (
    IS_OPEN_PAYMENT,
    PRICE_USD,
    SUBMISSIONS_OF,
    is_accepted,
    open_payments,
    refusal,
)
from libs.common.database.stores.sets import records, rows_as_json, statement

_CHUNK = 1_000

# Locks the batch against concurrent closes and resumes.
_HOLD = statement(f"""
SELECT b.api_key_id, b.max_concurrency, NOT EXISTS (
        SELECT FROM generation_requests g WHERE g.batch_id = b.id AND g.state IN {RELEASED_STATES})
    AND NOT EXISTS (
        SELECT FROM generation_requests g WHERE g.batch_id = b.id AND g.state = 'HELD') AS has_ended,
    k.id IS NOT NULL AND num_nonnulls(k.requests_per_minute, k.live_generations, k.monthly_budget_usd) > 0 AS is_bounded
FROM generation_batches b LEFT JOIN api_keys k ON k.id = b.api_key_id
WHERE b.id = :id AND (CAST(:owner AS text) IS NULL OR b.owner = :owner) FOR UPDATE OF b""")

_GO_ON = statement("UPDATE generation_batches SET stopped_at = NULL, cancel_requested_at = NULL WHERE id = :id")

# Generations that did not succeed and have no continuation in the batch. `has_open_payment`: a submission may be
# billed, or a late result, which belongs to no batch, was billed.
_RESUMABLE = f"""
SELECT g.id, g.batch_index, CAST(g.reserved_usd AS float) AS reserved_usd, {PRICE_USD} AS price_usd,
    EXISTS (SELECT FROM submissions s WHERE {SUBMISSIONS_OF} AND {IS_OPEN_PAYMENT}) OR EXISTS (
        SELECT FROM generation_requests late WHERE late.continues_id = g.id AND late.is_late) AS has_open_payment
FROM generation_requests g
WHERE g.batch_id = :id AND g.state IN ('FAILED', 'CANCELLED')
    AND (cardinality(CAST(:codes AS text[])) = 0 OR g.error->>'code' = ANY(:codes))
    AND NOT EXISTS (SELECT FROM generation_requests later WHERE later.continues_id = g.id AND NOT later.is_late)"""
_FIND = statement(f"{_RESUMABLE} ORDER BY g.batch_index")
# ResolveSubmission locks the generation as well, so the later of two transactions finds the continuation.
_LOCK = statement("""
SELECT id FROM generation_requests
WHERE batch_id = :id AND state IN ('FAILED', 'CANCELLED') ORDER BY id FOR UPDATE""")
_LEFT_OUT = statement(f"""
SELECT count(*) AS tasks, COALESCE(sum(price_usd), 0) AS price_usd FROM ({_RESUMABLE}) found WHERE has_open_payment""")

_INSERT = statement(f"""
INSERT INTO generation_requests (id, {COPIED}, state, continues_id, waits_for)
SELECT row.new_id, {copied("g")}, 'HELD', g.id, (
    SELECT count(*) FROM batch_dependencies d WHERE d.batch_id = g.batch_id AND d.batch_index = g.batch_index)
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(id text, new_id text) JOIN generation_requests g USING (id)""")

_MAKERS = statement("""
SELECT DISTINCT d.needs_index FROM generation_requests g
JOIN batch_dependencies d ON d.batch_id = g.batch_id AND d.batch_index = g.batch_index
WHERE g.batch_id = :id AND g.state = 'HELD' AND g.waits_for > 0""")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Generations that a resume without consent leaves out, and the price of submitting them again, in US dollars."""

    tasks: int = 0
    price_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Resumed:
    """The number of continued generations, and the generations that were left out."""

    tasks: int
    left_out: LeftOut


class ResumeStore:
    """Resumes batches. Arguments as for `BatchStore`."""

    def __init__(self, database: Database, admit: AdmitBatch) -> None:
        self._database = database
        self._admit = admit

    async def resume(
        self,
        batch_id: str,
        codes: Sequence[str],
        *,
        owner: str | None,
        new_id: Callable[[], str],
        accepted_usd: float | None = None,
    ) -> Resumed | None:
        """Continue the failed, cancelled and skipped generations of a batch that ended with one of these `codes`.

        What succeeded and what has not ended is left alone. The batch's scheduler releases what is held. Two calls at
        once continue each generation once.

        Args:
            batch_id: the batch.
            codes: error codes; none: any.
            owner: whose batch it must be; None: anybody's.
            new_id: makes the ids of the new generations.
            accepted_usd: what is accepted as a second payment for generations with a submission that may be billed, in
                US dollars. None: they are left out.

        Returns None where the caller has no such batch.
        Raises GenerationError QUOTA_EXCEEDED and RATE_LIMITED where the key's quota does not let it go on, and
        INVALID_REQUEST where `accepted_usd` is less than the price.
        """

        def work(connection: Connection) -> Resumed | None:
            held = connection.execute(_HOLD, {"id": batch_id, "owner": owner}).one_or_none()
            if held is None:
                return None
            connection.execute(_LOCK, {"id": batch_id})
            found = list(connection.execute(_FIND, {"id": batch_id, "codes": list(codes)}))
            found, left_out = _consented(connection, found, accepted_usd)
            if found and held.is_bounded:
                # Unfinished generations have their places already.
                places = held.max_concurrency if held.has_ended else 0
                reserved_usd = sum(row.reserved_usd for row in found)
                check_quota(connection, self._admit, held.api_key_id, places, reserved_usd)
            if found or not held.has_ended:
                connection.execute(_GO_ON, {"id": batch_id})
            _insert(connection, [row.id for row in found], new_id)
            makers = connection.execute(_MAKERS, {"id": batch_id}).scalars()
            settle(connection, [(batch_id, index) for index in makers])
            return Resumed(len(found), left_out)

        return await self._database.transaction("resume_batch", work)

    async def left_out(self, batch_id: str) -> LeftOut:
        """Return the generations that a resume of the batch without consent would leave out."""
        parameters: dict[str, Any] = {"id": batch_id, "codes": []}
        return await self._database.transaction(
            "count_left_out", lambda c: records(LeftOut, c.execute(_LEFT_OUT, parameters))[0]
        )


def _consented(
    connection: Connection, found: Sequence[Row[Any]], accepted_usd: float | None
) -> tuple[list[Row[Any]], LeftOut]:
    """Split resumable generations into those that are resumed and those that are left out without consent."""
    doubtful = [row for row in found if row.has_open_payment]
    price_usd = sum(row.price_usd for row in doubtful)
    if accepted_usd is None:
        certain = [row for row in found if not row.has_open_payment]
        return certain, LeftOut(len(doubtful), price_usd)
    if doubtful and not is_accepted(price_usd, accepted_usd):
        raise refusal(open_payments(connection, [row.id for row in doubtful]), price_usd, accepted_usd)
    return list(found), LeftOut()


def _insert(connection: Connection, ids: Sequence[str], new_id: Callable[[], str]) -> None:
    for start in range(0, len(ids), _CHUNK):
        rows = rows_as_json({"id": old, "new_id": new_id()} for old in ids[start : start + _CHUNK])
        connection.execute(_INSERT, {"rows": rows})
