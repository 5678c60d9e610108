"""Recognises outcomes that were committed although the reply to the commit was lost.

Their writer writes them again, and finds its lease gone. The row tells the two cases apart: it has the token of this
very claim, no owner, and what the outcome wrote. A writer that changes a row without a claim of its own leaves another
token, or other content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.states import State
from libs.common.database.stores.sets import statement

TaskClaim = tuple[str, str, int]
"""A claim of a task: the provider, the task, and the fencing token."""

_DISPATCHED = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        generation_id text, lease_token bigint, state text, submission_id text, submission_state text,
        task jsonb, outputs jsonb, error jsonb)
)
SELECT g.id, g.state FROM item JOIN generation_requests g ON g.id = item.generation_id
WHERE g.id = ANY(:ids) AND g.lease_owner IS NULL AND g.lease_token = item.lease_token
    AND CASE WHEN g.state IS NOT DISTINCT FROM item.state
        THEN g.error IS NOT DISTINCT FROM item.error AND g.outputs IS NOT DISTINCT FROM item.outputs
            AND g.provider_task_id IS NOT DISTINCT FROM item.task->>'task_id'
        ELSE g.state IS NOT DISTINCT FROM 'CANCELLED' AND g.cancel_requested_at < g.ended_at
            AND item.state NOT IN ('PROCESSING', 'FAILED') END
    AND (item.submission_id IS NULL OR EXISTS (
        SELECT FROM submissions s
        WHERE s.generation_id = g.id AND s.generation_id = ANY(:ids) AND s.id = item.submission_id
            AND s.state = item.submission_state))""")

# The end of a task and what follows from it for the generation have the time of one transaction.
_POLLED = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        provider_id text, task_id text, lease_token bigint, generation_state text)
)
SELECT t.provider_id, t.task_id, item.lease_token, CASE
    WHEN g.ended_at = t.ended_at THEN g.state
    WHEN item.generation_state = 'STORING' AND g.state IS DISTINCT FROM 'PROCESSING' THEN 'STORING'
    ELSE 'PROCESSING' END AS state
FROM item JOIN poll_tasks t USING (provider_id, task_id)
LEFT JOIN generation_requests g ON g.id = t.generation_id AND g.id = ANY(:ids)
WHERE t.lease_owner IS NULL AND t.lease_token = item.lease_token
    AND (t.ended_at IS NULL) = (item.generation_state IS NULL)""")

_STORED = statement("""
WITH item AS (
    SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
        generation_id text, lease_token bigint, state text, outputs jsonb, error jsonb)
)
SELECT g.id FROM item JOIN generation_requests g ON g.id = item.generation_id
WHERE g.id = ANY(:ids) AND g.lease_owner IS NULL AND g.lease_token = item.lease_token
    AND g.state IS NOT DISTINCT FROM item.state AND g.error IS NOT DISTINCT FROM item.error
    AND g.outputs IS NOT DISTINCT FROM item.outputs""")


def dispatched(connection: Connection, parameters: Mapping[str, Any]) -> dict[str, State]:
    """The states that rows have by outcomes of dispatchers, by generation. `parameters`: as for the write."""
    return {row.id: State(row.state) for row in connection.execute(_DISPATCHED, dict(parameters))}


def polled(connection: Connection, parameters: Mapping[str, Any]) -> dict[TaskClaim, State]:
    """The states that generations got by outcomes of polls, by claim of the task. `parameters`: as for the write."""
    return states_of(connection.execute(_POLLED, dict(parameters)))


def states_of(rows: Iterable[Any]) -> dict[TaskClaim, State]:
    """The states in rows with provider_id, task_id, lease_token and state, by claim of the task."""
    return {(row.provider_id, row.task_id, row.lease_token): State(row.state) for row in rows}


def stored(connection: Connection, parameters: Mapping[str, Any]) -> set[str]:
    """The generations whose rows have the outcomes of storing results. `parameters`: as for the write."""
    return set(connection.execute(_STORED, dict(parameters)).scalars())
