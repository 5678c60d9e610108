"""Claims, attempts and outcomes of the dispatcher. Every write is guarded by the claim's lease and token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.records import Attempt, ClaimedGeneration, DispatchOutcome, QueueRecord
from libs.common.database.states import State
from libs.common.database.stores.sets import records, rows_as_json, statement

# Claims of all dispatchers queue here, so that no two count the same free place at a provider.
_CLAIM_LOCK = statement("SELECT pg_advisory_xact_lock(7032001)")

_CLAIMED_COLUMNS = """
    g.id, g.model_identifier, g.provider_id, g.media_type, g.prompt, g.input_images, g.number_of_outputs,
    g.parameters, g.when_uncertain, g.user_id, g.request_id, g.attempts, g.lease_token, g.created_at"""

_CLAIM = statement(f"""
WITH wanted AS (
    SELECT * FROM jsonb_to_recordset(CAST(:slots AS jsonb)) AS row(
        provider_id text, slots int, concurrent_tasks int)
), free AS (
    SELECT provider_id, CASE WHEN concurrent_tasks IS NULL THEN slots ELSE GREATEST(0, LEAST(slots, concurrent_tasks - (
        SELECT count(*) FROM generation_requests g
        WHERE g.provider_id = wanted.provider_id AND g.state IN ('DISPATCHING', 'PROCESSING')))) END AS places
    FROM wanted
), due AS (
    SELECT waiting.id FROM free CROSS JOIN LATERAL (
        SELECT g.id FROM generation_requests g
        WHERE g.provider_id = free.provider_id AND g.state = 'PENDING' AND g.next_attempt_at <= now()
        ORDER BY g.priority DESC, g.next_attempt_at
        LIMIT free.places FOR UPDATE SKIP LOCKED) waiting
)
UPDATE generation_requests g
SET state = 'DISPATCHING', lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds),
    lease_token = g.lease_token + 1, updated_at = now()
FROM due WHERE g.id = due.id
RETURNING {_CLAIMED_COLUMNS}""")

_RESCUE = statement(f"""
WITH left_behind AS (
    SELECT id FROM generation_requests
    WHERE state = 'DISPATCHING' AND lease_until < now() AND id <> ALL(:held)
    ORDER BY lease_until LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE generation_requests g
SET lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds), lease_token = g.lease_token + 1
FROM left_behind WHERE g.id = left_behind.id
RETURNING {_CLAIMED_COLUMNS},
    (SELECT s.id FROM submissions s WHERE s.generation_id = g.id AND s.state = 'STARTED') AS open_submission_id""")

_CLAIM_FORGOTTEN = statement(f"""
WITH forgotten AS (
    SELECT id FROM generation_requests
    WHERE state = 'PENDING' AND provider_id <> ALL(:known)
        AND created_at < now() - make_interval(secs => :patience_seconds)
    LIMIT :limit FOR UPDATE SKIP LOCKED
)
UPDATE generation_requests g
SET state = 'DISPATCHING', lease_owner = :owner, lease_until = now() + make_interval(secs => :lease_seconds),
    lease_token = g.lease_token + 1, updated_at = now()
FROM forgotten WHERE g.id = forgotten.id
RETURNING {_CLAIMED_COLUMNS}""")

_RENEW = statement("""
UPDATE generation_requests SET lease_until = now() + make_interval(secs => :lease_seconds)
WHERE id = ANY(:ids) AND lease_owner = :owner AND state = 'DISPATCHING'""")

# What was claimed and never sent is free at once; what was sent waits for its lease to end and is then resolved.
_GIVE_BACK = statement("""
UPDATE generation_requests g
SET state = 'PENDING', lease_owner = NULL, lease_until = NULL, updated_at = now()
WHERE g.id = ANY(:ids) AND g.lease_owner = :owner AND g.state = 'DISPATCHING'
    AND NOT EXISTS (SELECT FROM submissions s WHERE s.generation_id = g.id AND s.state = 'STARTED')""")

_RECORD = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        submission_id text, generation_id text, lease_token bigint)
), held AS (
    UPDATE generation_requests g
    SET attempts = g.attempts + 1, submitted_at = COALESCE(g.submitted_at, now())
    FROM item
    WHERE g.id = item.generation_id AND g.state = 'DISPATCHING'
        AND g.lease_owner = :owner AND g.lease_token = item.lease_token
    RETURNING item.submission_id, g.id AS generation_id, g.attempts, g.provider_id
)
INSERT INTO submissions (id, generation_id, attempt, provider_id, state)
SELECT submission_id, generation_id, attempts, provider_id, 'STARTED' FROM held
RETURNING id""")

_END = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        generation_id text, lease_token bigint, state text, submission_id text, submission_state text,
        task jsonb, sources jsonb, outputs jsonb, error jsonb, cost_usd float, delay_seconds float,
        http_status smallint, provider_request_id text, latency_ms int)
), ended AS (
    UPDATE generation_requests g
    SET state = item.state, provider_task_id = item.task->>'task_id', sources = item.sources, outputs = item.outputs,
        error = item.error, cost_usd = item.cost_usd,
        next_attempt_at = now() + make_interval(secs => item.delay_seconds),
        lease_owner = NULL, lease_until = NULL, updated_at = now(),
        ended_at = CASE WHEN item.state = ANY(:terminal) THEN now() END
    FROM item
    WHERE g.id = item.generation_id AND g.state = 'DISPATCHING'
        AND g.lease_owner = :owner AND g.lease_token = item.lease_token
    RETURNING g.id, g.provider_id
), attempt AS (
    UPDATE submissions s
    SET state = item.submission_state, provider_task_id = item.task->>'task_id', error = item.error,
        http_status = item.http_status, provider_request_id = item.provider_request_id,
        latency_ms = item.latency_ms, ended_at = now()
    FROM item JOIN ended ON ended.id = item.generation_id
    WHERE s.id = item.submission_id AND s.state = 'STARTED'
), handed_over AS (
    INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, check_url, strategy, poll_interval_ms,
        next_poll_at, deadline_at)
    SELECT ended.provider_id, task.task_id, ended.id, task.adapter_name, task.check_url, task.strategy,
        task.poll_interval_ms, now() + make_interval(secs => task.poll_interval_ms / 1000.0),
        now() + make_interval(secs => task.max_duration_seconds)
    FROM item JOIN ended ON ended.id = item.generation_id
    CROSS JOIN LATERAL jsonb_to_record(item.task) AS task(
        task_id text, adapter_name text, check_url text, strategy text, poll_interval_ms int, max_duration_seconds int)
    WHERE item.task IS NOT NULL
)
SELECT id FROM ended""")

_SPOOL = statement("""
INSERT INTO output_spool (generation_id, output_index, content) VALUES (:generation_id, :output_index, :content)
ON CONFLICT (generation_id, output_index) DO UPDATE SET content = EXCLUDED.content""")

_QUEUE = statement("""
SELECT provider_id,
    count(*) FILTER (WHERE state = 'PENDING') AS pending,
    count(*) FILTER (WHERE state = 'DISPATCHING') AS dispatching,
    count(*) FILTER (WHERE state = 'PROCESSING') AS processing,
    count(*) FILTER (WHERE state = 'STORING') AS storing,
    min(created_at) FILTER (WHERE state = 'PENDING') AS oldest_pending_at
FROM generation_requests WHERE state IN ('PENDING', 'DISPATCHING', 'PROCESSING', 'STORING')
GROUP BY provider_id""")


@dataclass(frozen=True, slots=True)
class Slots:
    """How many rows of a provider account this process can take, and how many tasks the account may have at once.

    `concurrent_tasks` counts what all dispatchers have there together; None: no bound.
    """

    provider_id: str
    slots: int
    concurrent_tasks: int | None


class DispatchStore:
    """Reads and writes of one dispatcher process.

    Args:
        database: where the rows are.
        owner: a name that no other process has or had; it stands in `lease_owner`.
        lease_seconds: how long a claim lives without being renewed.
    """

    def __init__(self, database: Database, *, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._lease: Mapping[str, Any] = {"owner": owner, "lease_seconds": lease_seconds}

    async def claim(self, slots: Sequence[Slots]) -> list[ClaimedGeneration]:
        """Lease waiting generations: by provider, then by priority, then by age."""

        def work(connection: Connection) -> list[ClaimedGeneration]:
            connection.execute(_CLAIM_LOCK)
            asked = rows_as_json(asdict(slot) for slot in slots)
            return records(ClaimedGeneration, connection.execute(_CLAIM, {**self._lease, "slots": asked}))

        return await self._database.transaction("claim_generations", work)

    async def rescue(self, limit: int, *, held: Sequence[str]) -> list[ClaimedGeneration]:
        """Lease what a dispatcher left behind that died or lost its lease. `held` is under way here and left alone."""
        parameters = {**self._lease, "limit": limit, "held": list(held)}
        return await self._database.transaction(
            "rescue_generations", lambda c: records(ClaimedGeneration, c.execute(_RESCUE, parameters))
        )

    async def claim_forgotten(
        self, limit: int, *, known: Sequence[str], patience_seconds: float
    ) -> list[ClaimedGeneration]:
        """Lease what waits for a provider that is not among the `known`, if it was accepted so long ago."""
        parameters = {**self._lease, "limit": limit, "known": list(known), "patience_seconds": patience_seconds}
        return await self._database.transaction(
            "claim_forgotten_generations", lambda c: records(ClaimedGeneration, c.execute(_CLAIM_FORGOTTEN, parameters))
        )

    async def renew(self, generation_ids: Sequence[str]) -> None:
        """Prolong the leases of those of `generation_ids` that are still held."""
        parameters = {**self._lease, "ids": list(generation_ids)}
        await self._database.transaction("renew_generations", lambda c: c.execute(_RENEW, parameters))

    async def give_back(self, generation_ids: Sequence[str]) -> None:
        """End the leases of what was claimed and never sent."""
        parameters = {"owner": self._lease["owner"], "ids": list(generation_ids)}
        await self._database.transaction("give_back_generations", lambda c: c.execute(_GIVE_BACK, parameters))

    async def record_attempts(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Commit that these submits are about to leave; in the order given, whether each may."""

        def work(connection: Connection) -> set[str]:
            rows = rows_as_json(asdict(attempt) for attempt in attempts)
            return set(connection.execute(_RECORD, {"owner": self._lease["owner"], "rows": rows}).scalars())

        recorded = await self._database.transaction("record_attempts", work)
        return [attempt.submission_id in recorded for attempt in attempts]

    async def end(self, outcomes: Sequence[DispatchOutcome]) -> list[bool]:
        """Write outcomes; in the order given, whether each still held its lease.

        With one statement: the generations' next states, the ends of their attempts, and the tasks handed over.
        """
        for outcome in outcomes:
            states.check(State.DISPATCHING, outcome.state)

        def work(connection: Connection) -> set[str]:
            parameters = {
                "owner": self._lease["owner"],
                "terminal": sorted(states.TERMINAL),
                "rows": rows_as_json(_outcome_row(outcome) for outcome in outcomes),
            }
            ended = set(connection.execute(_END, parameters).scalars())
            spooled = [
                {"generation_id": outcome.generation_id, "output_index": index, "content": content}
                for outcome in outcomes
                if outcome.generation_id in ended
                for index, content in enumerate(outcome.spool)
            ]
            if spooled:
                connection.execute(_SPOOL, spooled)
            return ended

        ended = await self._database.transaction("end_dispatches", work)
        return [outcome.generation_id in ended for outcome in outcomes]

    async def queue(self) -> list[QueueRecord]:
        """What waits and what is under way, by provider account."""
        return await self._database.transaction("read_queue", lambda c: records(QueueRecord, c.execute(_QUEUE)))


def _outcome_row(outcome: DispatchOutcome) -> dict[str, Any]:
    return {
        "generation_id": outcome.generation_id,
        "lease_token": outcome.lease_token,
        "state": outcome.state,
        "submission_id": outcome.submission_id,
        "submission_state": outcome.submission_state,
        "task": asdict(outcome.task) if outcome.task else None,
        "sources": outcome.sources,
        "outputs": outcome.outputs,
        "error": outcome.error,
        "cost_usd": outcome.cost_usd,
        "delay_seconds": outcome.delay_seconds,
        "http_status": outcome.http_status,
        "provider_request_id": outcome.provider_request_id,
        "latency_ms": outcome.latency_ms,
    }
