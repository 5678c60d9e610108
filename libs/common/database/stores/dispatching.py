"""Attempts and outcomes of the dispatcher. Every write is guarded by the claim's lease and token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.ranges import IN_RANGE
from libs.common.database.records_dispatch import Attempt, DispatchOutcome, QueueRecord
from libs.common.database.states import State
from libs.common.database.stores import repeats
from libs.common.database.stores.accounts import refund
from libs.common.database.stores.cancelling import CANCELLED_BY_CALLER
from libs.common.database.stores.fallbacks import going_on
from libs.common.database.stores.sets import records, rows_as_json, statement

_RECORD = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        submission_id text, generation_id text, lease_token bigint)
), held AS (
    UPDATE generation_requests g
    SET attempts = g.attempts + 1, submitted_at = COALESCE(g.submitted_at, now())
    FROM item
    WHERE g.id = item.generation_id AND g.id = ANY(:ids) AND g.state IS NOT DISTINCT FROM 'DISPATCHING'
        AND g.lease_owner = :owner AND g.lease_token = item.lease_token AND g.cancel_requested_at IS NULL
    RETURNING item.submission_id, g.id AS generation_id, g.attempts, g.provider_id, g.model_identifier,
        g.expected_cost_usd
)
INSERT INTO submissions (id, generation_id, attempt, provider_id, model_identifier, state, expected_cost_usd)
SELECT submission_id, generation_id, attempts, provider_id, model_identifier, 'STARTED',
    CAST(expected_cost_usd AS numeric)
FROM held
RETURNING id""")

# A cancel that was asked for meanwhile wins over whatever has not reached the provider, and over results that it has
# sent already. A task that it works on is handed over all the same, for the poller to cancel it there.
_END = statement(f"""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        generation_id text, lease_token bigint, state text, submission_id text, submission_state text,
        task jsonb, sources jsonb, outputs jsonb, error jsonb, cost_usd float, delay_seconds float,
        http_status smallint, provider_request_id text, latency_ms int, fallback int, is_same_id bool, reply jsonb)
), held AS (
    SELECT item.*, g.cancel_requested_at IS NOT NULL AS is_cancel_requested,
        CASE WHEN g.cancel_requested_at IS NULL OR item.state IN ('PROCESSING', 'FAILED') THEN item.state
            ELSE 'CANCELLED' END AS next_state,
        CASE WHEN g.cancel_requested_at IS NULL THEN g.fallbacks->item.fallback END AS moved,
        item.error->>'code' AS code, g.expected_cost_usd,
        g.cancel_requested_at IS NULL AND item.state = 'PENDING' AND item.submission_state = 'UNCERTAIN' AS resubmits
    FROM item JOIN generation_requests g ON g.id = item.generation_id
    WHERE g.id = ANY(:ids) AND g.state IS NOT DISTINCT FROM 'DISPATCHING'
        AND g.lease_owner = :owner AND g.lease_token = item.lease_token
    FOR UPDATE OF g
), ended AS (
    UPDATE generation_requests g
    SET state = held.next_state, provider_task_id = held.task->>'task_id',
        sources = CASE WHEN held.next_state <> 'CANCELLED' THEN held.sources END,
        outputs = CASE WHEN held.next_state <> 'CANCELLED' THEN held.outputs END,
        error = CASE WHEN held.next_state = 'CANCELLED' THEN COALESCE(
            CASE WHEN held.state = 'CANCELLED' THEN held.error END, CAST(:cancelled AS jsonb)) ELSE held.error END,
        cost_usd = held.cost_usd, next_attempt_at = now() + make_interval(secs => held.delay_seconds),
        lease_owner = NULL, lease_until = NULL, updated_at = now(),
        ended_at = CASE WHEN held.next_state = ANY(:terminal) THEN now() END,{going_on("held")}
    FROM held WHERE g.id = held.generation_id AND g.id = ANY(:ids)
    RETURNING g.id, g.provider_id, g.state
), attempt AS (
    UPDATE submissions s
    SET state = held.submission_state, provider_task_id = held.task->>'task_id', error = held.error,
        http_status = held.http_status, provider_request_id = held.provider_request_id,
        latency_ms = held.latency_ms, reply = held.reply, ended_at = now(),
        at_risk_usd = CASE WHEN held.submission_state = 'UNCERTAIN' AND NOT held.is_same_id
            THEN CAST(held.expected_cost_usd AS numeric) ELSE 0 END,
        resolution = CASE WHEN held.resubmits THEN 'RESUBMITTED' END,
        resolution_note = CASE WHEN held.resubmits THEN 'by policy' END,
        resolved_at = CASE WHEN held.resubmits THEN now() END
    FROM held
    WHERE s.generation_id = held.generation_id AND s.generation_id = ANY(:ids)
        AND s.id = held.submission_id AND s.state = 'STARTED'
), handed_over AS (
    INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, check_url, strategy, poll_interval_ms,
        next_poll_at, deadline_at)
    SELECT ended.provider_id, task.task_id, ended.id, task.adapter_name, task.check_url, task.strategy,
        task.poll_interval_ms, CASE WHEN held.is_cancel_requested THEN now()
            ELSE now() + make_interval(secs => task.poll_interval_ms / 1000.0 * (0.9 + 0.2 * random())) END,
        now() + make_interval(secs => task.max_duration_seconds)
    FROM held JOIN ended ON ended.id = held.generation_id
    CROSS JOIN LATERAL jsonb_to_record(held.task) AS task(
        task_id text, adapter_name text, check_url text, strategy text, poll_interval_ms int, max_duration_seconds int)
    WHERE held.task IS NOT NULL
)
SELECT id, state FROM ended""")

_SPOOL = statement("""
INSERT INTO output_spool (generation_id, output_index, content) VALUES (:generation_id, :output_index, :content)
ON CONFLICT (generation_id, output_index) DO UPDATE SET content = EXCLUDED.content""")

_QUEUE = statement(f"""
SELECT provider_id,
    count(*) FILTER (WHERE state = 'PENDING') AS pending,
    count(*) FILTER (WHERE state = 'DISPATCHING') AS dispatching,
    count(*) FILTER (WHERE state = 'PROCESSING') AS processing,
    count(*) FILTER (WHERE state = 'STORING') AS storing,
    min(released_at) FILTER (WHERE state = 'PENDING') AS oldest_pending_at
FROM generation_requests WHERE state IN ('PENDING', 'DISPATCHING', 'PROCESSING', 'STORING') AND id {IN_RANGE}
GROUP BY provider_id""")


class DispatchStore:
    """What one dispatcher process writes of the generations that it has claimed.

    Args:
        database: where the rows are.
        owner: the name that stands in `lease_owner`.
    """

    def __init__(self, database: Database, *, owner: str) -> None:
        self._database = database
        self._owner = owner

    async def record_attempts(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Commit that these submits are about to leave; in the order given, whether each may."""

        def work(connection: Connection) -> set[str]:
            rows = rows_as_json(asdict(attempt) for attempt in attempts)
            ids = [attempt.generation_id for attempt in attempts]
            parameters = {"owner": self._owner, "rows": rows, "ids": ids}
            return set(connection.execute(_RECORD, parameters).scalars())

        recorded = await self._database.transaction("record_attempts", work)
        return [attempt.submission_id in recorded for attempt in attempts]

    async def end(self, outcomes: Sequence[DispatchOutcome]) -> list[State | None]:
        """Write outcomes; in the order given, the state that was written, or None where the lease was lost.

        An outcome that an earlier call has committed, whose reply was lost, is answered as that call would have been.

        With one statement: the generations' next states, the ends of their attempts, and the tasks handed over. The
        state is CANCELLED instead of the outcome's where a cancel was asked for meanwhile and can still be had.
        """
        for outcome in outcomes:
            states.check(State.DISPATCHING, outcome.state)

        def work(connection: Connection) -> dict[str, State]:
            ended = end_dispatches(connection, outcomes, owner=self._owner)
            if len(ended) == len(outcomes):
                return ended
            return repeats.dispatched(connection, _parameters(outcomes, self._owner)) | ended

        ended = await self._database.transaction("end_dispatches", work)
        return [ended.get(outcome.generation_id) for outcome in outcomes]

    async def queue(self) -> list[QueueRecord]:
        """What waits and what is under way, by provider account."""
        parameters = self._database.live_ids.parameters
        return await self._database.transaction(
            "read_queue", lambda c: records(QueueRecord, c.execute(_QUEUE, parameters))
        )


def end_dispatches(connection: Connection, outcomes: Sequence[DispatchOutcome], *, owner: str) -> dict[str, State]:
    """Write outcomes in this transaction.

    Args:
        connection: of the transaction.
        outcomes: each with the token of the claim that it ends.
        owner: whose claims they are.

    Returns the state that was written, by generation; none for an outcome whose claim has ended.
    """
    parameters = _parameters(outcomes, owner)
    ended = {row.id: State(row.state) for row in connection.execute(_END, parameters)}
    spool(
        connection,
        {
            outcome.generation_id: outcome.spool
            for outcome in outcomes
            if ended.get(outcome.generation_id) is State.STORING
        },
    )
    refund(connection, _not_taken(outcomes, ended))
    return ended


def spool(connection: Connection, contents: Mapping[str, Sequence[bytes]]) -> None:
    """Keep outputs that came as bytes until they are stored, by the generation that holds them."""
    rows = [
        {"generation_id": generation_id, "output_index": index, "content": content}
        for generation_id, outputs in contents.items()
        for index, content in enumerate(outputs)
    ]
    if rows:
        connection.execute(_SPOOL, rows)


def _parameters(outcomes: Sequence[DispatchOutcome], owner: str) -> dict[str, Any]:
    return {
        "ids": [outcome.generation_id for outcome in outcomes],
        "owner": owner,
        "terminal": sorted(states.TERMINAL),
        "cancelled": CANCELLED_BY_CALLER,
        "rows": rows_as_json(_outcome_row(outcome) for outcome in outcomes),
    }


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
        "fallback": outcome.fallback,
        "is_same_id": outcome.is_same_id,
        "reply": outcome.reply,
    }


def _not_taken(outcomes: Sequence[DispatchOutcome], ended: Mapping[str, State]) -> dict[str, float]:
    costs: defaultdict[str, float] = defaultdict(float)
    for outcome in outcomes:
        if outcome.generation_id in ended and not outcome.was_taken:
            costs[outcome.provider_id] += outcome.claimed_cost_usd
    return costs
