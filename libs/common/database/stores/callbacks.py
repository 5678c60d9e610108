"""Callbacks: written with the change they tell of, claimed and delivered by pollers, read and replayed by owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from libs.common.database.engine import Database
from libs.common.database.records_edge import CallbackOutcome, CallbackRecord, ClaimedCallback
from libs.common.database.states import CallbackState
from libs.common.database.stores.sets import records, rows_as_json, statement

# One after the other: while an earlier one of its generation waits, a later one does.
_CLAIM = statement("""
WITH due AS (
    SELECT c.id FROM callbacks c
    WHERE c.state = 'PENDING' AND c.next_attempt_at <= now() AND (c.lease_until IS NULL OR c.lease_until < now())
        AND NOT EXISTS (SELECT FROM callbacks earlier WHERE earlier.generation_id = c.generation_id
            AND earlier.sequence < c.sequence AND earlier.state = 'PENDING')
        AND NOT EXISTS (SELECT FROM callbacks earlier WHERE earlier.batch_id = c.batch_id
            AND earlier.sequence < c.sequence AND earlier.state = 'PENDING')
    ORDER BY c.next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE callbacks c SET lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds),
    lease_token = c.lease_token + 1, attempts = c.attempts + 1
FROM callbacks told LEFT JOIN generation_requests g ON g.id = told.generation_id
LEFT JOIN generation_batches b ON b.id = told.batch_id
WHERE c.id = ANY(ARRAY(SELECT id FROM due)) AND told.id = c.id
RETURNING c.id, c.generation_id, c.batch_id, c.content, c.api_key_id, c.event, c.url, c.attempts, c.lease_token,
    c.created_at, COALESCE(g.request_id, b.request_id) AS request_id, g.trace_parent,
    COALESCE(g.model_identifier, '') AS model_identifier, COALESCE(g.labels, '{}') AS labels, g.user_id, g.outputs,
    g.error, g.cost_usd, g.continues_id""")

_END = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        id text, lease_token bigint, is_delivered bool, http_status smallint, error text, delay_seconds float,
        is_hopeless bool)
), next AS (
    SELECT item.*, CASE WHEN item.is_delivered THEN 'DELIVERED'
        WHEN item.is_hopeless OR now() + make_interval(secs => item.delay_seconds) > c.give_up_at THEN 'DEAD'
        ELSE 'PENDING' END AS state
    FROM item JOIN callbacks c USING (id)
)
UPDATE callbacks c
SET state = next.state, last_http_status = next.http_status, last_error = next.error,
    next_attempt_at = now() + make_interval(secs => next.delay_seconds), lease_owner = NULL, lease_until = NULL,
    ended_at = CASE WHEN next.state <> 'PENDING' THEN now() END
FROM next
WHERE c.id = next.id AND c.state = 'PENDING' AND c.lease_owner = :owner AND c.lease_token = next.lease_token
RETURNING c.id, c.state""")

_POSTPONE = statement("""
UPDATE callbacks SET lease_owner = NULL, lease_until = NULL, attempts = GREATEST(0, attempts - 1),
    next_attempt_at = now() + make_interval(secs => :seconds)
WHERE lease_owner = :owner AND state = 'PENDING' AND id = ANY(:ids)""")

_COLUMNS = """
SELECT id, generation_id, batch_id, event, url, state, attempts, last_http_status, last_error, next_attempt_at,
    created_at, ended_at
FROM callbacks"""

_LIST = statement(f"""{_COLUMNS}
WHERE (CAST(:owner AS text) IS NULL OR owner = :owner)
    AND (CAST(:generation_id AS text) IS NULL OR generation_id = :generation_id)
    AND (CAST(:batch_id AS text) IS NULL OR batch_id = :batch_id)
    AND (CAST(:state AS text) IS NULL OR state = :state)
    AND (CAST(:before AS text) IS NULL OR id < :before)
ORDER BY id DESC LIMIT :limit""")

# Its earlier tries stay counted; a day begins anew.
_REPLAY = statement("""
UPDATE callbacks SET state = 'PENDING', ended_at = NULL, next_attempt_at = now(),
    give_up_at = now() + interval '24 hours', lease_owner = NULL, lease_until = NULL, lease_token = lease_token + 1
WHERE id = :id AND (CAST(:owner AS text) IS NULL OR owner = :owner)
RETURNING id, generation_id, batch_id, event, url, state, attempts, last_http_status, last_error, next_attempt_at,
    created_at, ended_at""")


class CallbackStore:
    """Reads and replays of the gateway. `owner`: whose alone there are; None: everybody's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list_page(
        self,
        limit: int,
        *,
        owner: str | None,
        generation_id: str | None,
        batch_id: str | None,
        state: CallbackState | None,
        before: str | None,
    ) -> list[CallbackRecord]:
        """At most `limit` callbacks, newest first, older than the id `before`."""
        parameters = {
            "limit": limit,
            "owner": owner,
            "generation_id": generation_id,
            "batch_id": batch_id,
            "state": state,
            "before": before,
        }
        found = await self._database.transaction(
            "list_callbacks", lambda c: records(CallbackRecord, c.execute(_LIST, parameters))
        )
        return [_typed(record) for record in found]

    async def replay(self, callback_id: str, *, owner: str | None) -> CallbackRecord | None:
        """Let a callback be delivered again at once; it as it stands then, or None."""
        parameters = {"id": callback_id, "owner": owner}
        found = await self._database.transaction(
            "replay_callback", lambda c: records(CallbackRecord, c.execute(_REPLAY, parameters))
        )
        return _typed(found[0]) if found else None


class CallbackQueue:
    """Claims and outcomes of one process that delivers. Arguments as for `PollStore`."""

    def __init__(self, database: Database, *, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._lease: Mapping[str, Any] = {"owner": owner, "lease_seconds": lease_seconds}

    async def claim(self, limit: int) -> list[ClaimedCallback]:
        """Lease callbacks that are due, the longest due first, at most one of a generation or batch."""
        return await self._database.transaction(
            "claim_callbacks",
            lambda c: records(ClaimedCallback, c.execute(_CLAIM, {**self._lease, "limit": limit})),
        )

    async def end(self, outcomes: Sequence[CallbackOutcome]) -> list[CallbackState | None]:
        """Write outcomes; in the order given, each callback's state then, or None where the lease was lost."""
        parameters = {
            "owner": self._lease["owner"],
            "rows": rows_as_json(asdict(outcome) for outcome in outcomes),
        }
        written = await self._database.transaction(
            "end_callbacks", lambda c: {row.id: CallbackState(row.state) for row in c.execute(_END, parameters)}
        )
        return [written.get(outcome.id) for outcome in outcomes]

    async def postpone(self, ids: Sequence[str], seconds: float) -> None:
        """End these leases without a try; anybody may deliver after that time."""
        parameters = {"owner": self._lease["owner"], "ids": list(ids), "seconds": seconds}
        await self._database.transaction("postpone_callbacks", lambda c: c.execute(_POSTPONE, parameters))


def _typed(record: CallbackRecord) -> CallbackRecord:
    return replace(record, state=CallbackState(record.state))
