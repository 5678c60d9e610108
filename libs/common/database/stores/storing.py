"""Claims and outcomes of storing results: work of its own, apart from polling. Guarded by lease and token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.ranges import IN_RANGE
from libs.common.database.records import Lease
from libs.common.database.records_tasks import ClaimedResult, StoreOutcome
from libs.common.database.schema.generations import generation_requests
from libs.common.database.states import State
from libs.common.database.stores import repeats
from libs.common.database.stores.pauses import DEFAULT_PAUSES, TAKE_PROBE, PausePolicy, PauseStore
from libs.common.database.stores.sets import (
    CLAIMS,
    claims_as_arrays,
    columns_of,
    listed,
    records,
    rows_as_json,
    statement,
)

_IS_DUE = f"""
    state = 'STORING' AND next_attempt_at <= now() AND (lease_until IS NULL OR lease_until < now()) AND id {IN_RANGE}"""
_NEEDS_CREDENTIALS = """sources @> '[{"needs_credentials": true}]'"""

# Of a paused account no result is claimed that is read with its credentials, but for one as the probe. The task is
# looked up row by row, for an estimate of how many are due would have the planner read all tasks.
_CLAIM = statement(f"""
WITH free AS (
    SELECT provider_id FROM provider_accounts WHERE polls_paused_at IS NOT NULL
), ready AS (
    SELECT id FROM generation_requests
    WHERE {_IS_DUE} AND NOT (provider_id = ANY(ARRAY(SELECT provider_id FROM free)) AND {_NEEDS_CREDENTIALS})
    ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED
), probe AS ({TAKE_PROBE}
        AND EXISTS (SELECT FROM generation_requests g
            WHERE g.provider_id = a.provider_id AND {_IS_DUE} AND {_NEEDS_CREDENTIALS})
    RETURNING a.provider_id
), probing AS (
    SELECT found.id FROM probe CROSS JOIN LATERAL (
        SELECT id FROM generation_requests g
        WHERE g.provider_id = probe.provider_id AND {_IS_DUE} AND {_NEEDS_CREDENTIALS}
        ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED) found
), claimed AS (
    UPDATE generation_requests g
    SET lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds),
        lease_token = g.lease_token + 1, store_attempts = g.store_attempts + 1
    WHERE g.id = ANY(ARRAY(SELECT id FROM ready UNION SELECT id FROM probing)) AND g.id {IN_RANGE}
    RETURNING {listed(columns_of(ClaimedResult, generation_requests), "g")},
        COALESCE(g.error -> 'details' ->> 'http_status' IN ('401', '403'), false) AS was_refused,
        g.id = ANY(ARRAY(SELECT id FROM probing)) AS is_paused,
        CAST(EXTRACT(EPOCH FROM now() - g.updated_at) AS float) AS waiting_seconds
)
SELECT claimed.*, task.* FROM claimed LEFT JOIN LATERAL (
    SELECT t.task_id, t.check_url, CAST(EXTRACT(EPOCH FROM now() - t.created_at) AS float) AS task_age_seconds,
        CAST(EXTRACT(EPOCH FROM t.deadline_at - now()) AS float) AS task_seconds_left
    FROM poll_tasks t WHERE t.generation_id = claimed.id LIMIT 1) task ON true""")

# By claim: the lease of a claim that this process does not hold expires, and an older claim never renews a newer one.
_HELD = f"""
FROM {CLAIMS}
WHERE g.id = ANY(:ids) AND g.id = claim.generation_id AND g.state IS NOT DISTINCT FROM 'STORING'
    AND g.lease_owner = :owner AND g.lease_token = claim.lease_token"""

_TAKE = statement("""
UPDATE generation_requests
SET lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds), lease_token = lease_token + 1
WHERE id = :id AND state IS NOT DISTINCT FROM 'STORING'
RETURNING lease_token""")

_RENEW = statement(f"""
UPDATE generation_requests g SET lease_until = now() + make_interval(secs => :lease_seconds){_HELD}""")

_GIVE_BACK = statement(f"""
UPDATE generation_requests g SET lease_owner = NULL, lease_until = NULL, lease_token = g.lease_token + 1{_HELD}""")

_END = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        generation_id text, lease_token bigint, state text, outputs jsonb, error jsonb, delay_seconds float,
        sources jsonb)
), ended AS (
    UPDATE generation_requests g
    SET state = item.state, outputs = item.outputs, error = item.error,
        next_attempt_at = now() + make_interval(secs => item.delay_seconds), lease_owner = NULL, lease_until = NULL,
        sources = CASE WHEN item.state = 'STORING' THEN COALESCE(item.sources, g.sources) END,
        updated_at = CASE WHEN item.state = 'STORING' THEN g.updated_at ELSE now() END,
        ended_at = CASE WHEN item.state = ANY(:terminal) THEN now() END
    FROM item
    WHERE g.id = item.generation_id AND g.id = ANY(:ids) AND g.state IS NOT DISTINCT FROM 'STORING'
        AND g.lease_owner = :owner AND g.lease_token = item.lease_token
    RETURNING g.id, item.state
), emptied AS (
    DELETE FROM output_spool s USING ended WHERE s.generation_id = ended.id AND ended.state <> 'STORING'
)
SELECT id FROM ended""")

_STATE = statement("SELECT state FROM generation_requests WHERE id = :id")

_SPOOLED = statement("""
SELECT content FROM output_spool WHERE generation_id = :generation_id AND output_index = :output_index""")


class ResultStore:
    """Reads and writes of one process that stores results. Arguments as for `PollStore`."""

    def __init__(
        self, database: Database, *, owner: str, lease_seconds: float, pauses: PausePolicy = DEFAULT_PAUSES
    ) -> None:
        self._database = database
        self._pauses = PauseStore(database, pauses)
        self._lease: Mapping[str, Any] = {"owner": owner, "lease_seconds": lease_seconds, **pauses.parameters}

    async def claim(self, limit: int) -> list[ClaimedResult]:
        """Lease generations whose results wait to be stored, the longest due first."""
        parameters = {**self._lease, **self._database.live_ids.parameters, "limit": limit}
        return await self._database.transaction(
            "claim_results", lambda c: records(ClaimedResult, c.execute(_CLAIM, parameters))
        )

    async def take(self, generation_id: str) -> int | None:
        """Lease one generation, whoever holds it; return its new fencing token, or None if it is not STORING."""
        parameters = {**self._lease, "id": generation_id}
        return await self._database.transaction(
            "take_result", lambda c: c.execute(_TAKE, parameters).scalar_one_or_none()
        )

    async def renew(self, claims: Sequence[Lease]) -> None:
        """Renew the leases of these claims, as far as they still hold."""
        parameters = {**self._lease, **claims_as_arrays(claims)}
        await self._database.transaction("renew_results", lambda c: c.execute(_RENEW, parameters))

    async def give_back(self, claims: Sequence[Lease]) -> None:
        """End the leases of these claims, as far as they still hold; other pollers may then store the results."""
        parameters = {"owner": self._lease["owner"], **claims_as_arrays(claims)}
        await self._database.transaction("give_back_results", lambda c: c.execute(_GIVE_BACK, parameters))

    async def is_cancelled(self, generation_id: str) -> bool:
        """Whether a generation has ended by a cancel, so that nobody will ever read what was stored for it."""
        found = await self._database.transaction(
            "read_state", lambda c: c.execute(_STATE, {"id": generation_id}).scalar_one_or_none()
        )
        return found == State.CANCELLED

    async def spooled(self, generation_id: str, output_index: int) -> bytes | None:
        """An output that waited in the database for object storage, or None."""
        key = {"generation_id": generation_id, "output_index": output_index}
        content = await self._database.transaction(
            "read_spool", lambda c: c.execute(_SPOOLED, key).scalar_one_or_none()
        )
        return None if content is None else bytes(content)

    async def end(self, outcomes: Sequence[StoreOutcome]) -> list[bool]:
        """Write outcomes; in the order given, whether each still held its lease. One statement for all.

        An outcome that an earlier call has committed, whose reply was lost, is answered as that call would have been.
        """
        for outcome in outcomes:
            if outcome.state is not State.STORING:
                states.check(State.STORING, outcome.state)

        def work(connection: Connection) -> set[str]:
            parameters = {
                "ids": [outcome.generation_id for outcome in outcomes],
                "owner": self._lease["owner"],
                "terminal": sorted(states.TERMINAL),
                "rows": rows_as_json(asdict(outcome) for outcome in outcomes),
            }
            ended = set(connection.execute(_END, parameters).scalars())
            return ended if len(ended) == len(outcomes) else repeats.stored(connection, parameters) | ended

        await self._pauses.pause([outcome.refused_by for outcome in outcomes if outcome.refused_by])
        await self._pauses.resume([outcome.taken_by for outcome in outcomes if outcome.taken_by])
        written = await self._database.transaction("end_results", work)
        return [outcome.generation_id in written for outcome in outcomes]
