"""Cancelling, at whatever state a generation is: at once where nothing can run any more, by its holder otherwise."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.states import State
from libs.common.database.stores.sets import statement
from libs.common.errors import ErrorCode, GenerationError

CANCELLED_BY_CALLER = json.dumps(
    GenerationError(
        ErrorCode.TASK_CANCELLED, "It was cancelled before the provider had it, or after it was done."
    ).to_json()
)
# Nobody is at work on these outside, except on storing: its late write meets a newer token.
_AT_ONCE = [State.HELD, State.PENDING, State.STORING]

# Outputs that are stored already are removed from object storage with the prepared images that have expired.
# The task is locked first, as the end of a poll does, so that the two do not wait for each other in a circle.
_CANCEL = statement("""
WITH task AS (
    SELECT t.generation_id FROM poll_tasks t WHERE t.generation_id = ANY(:ids) AND t.ended_at IS NULL FOR UPDATE
), asked AS (
    UPDATE generation_requests g
    SET cancel_requested_at = COALESCE(g.cancel_requested_at, now()),
        state = CASE WHEN g.state = ANY(:at_once) THEN 'CANCELLED' ELSE g.state END,
        error = CASE WHEN g.state = ANY(:at_once) THEN CAST(:error AS jsonb) ELSE g.error END,
        sources = CASE WHEN g.state = ANY(:at_once)
            THEN NULLIF(jsonb_path_query_array(g.sources, '$[*] ? (exists(@.stored))'), '[]') ELSE g.sources END,
        lease_token = CASE WHEN g.state = ANY(:at_once) THEN g.lease_token + 1 ELSE g.lease_token END,
        lease_owner = CASE WHEN g.state = ANY(:at_once) THEN NULL ELSE g.lease_owner END,
        lease_until = CASE WHEN g.state = ANY(:at_once) THEN NULL ELSE g.lease_until END,
        ended_at = CASE WHEN g.state = ANY(:at_once) THEN now() END,
        updated_at = CASE WHEN g.state = ANY(:at_once) THEN now() ELSE g.updated_at END
    WHERE g.id = ANY(:ids) AND g.state <> ALL(:terminal) AND (CAST(:owner AS text) IS NULL OR g.owner = :owner)
        AND (SELECT count(*) FROM task) >= 0
    RETURNING g.id, g.state, g.sources
), due AS (
    UPDATE poll_tasks t SET is_wanted = true, next_poll_at = LEAST(t.next_poll_at, now())
    FROM asked WHERE t.generation_id = asked.id AND t.ended_at IS NULL
), emptied AS (
    DELETE FROM output_spool s USING asked WHERE s.generation_id = asked.id AND asked.state = 'CANCELLED'
), unwanted AS (
    INSERT INTO prepared_images (object_key, content_key, content_type, size_bytes, expires_at)
    SELECT stored ->> 'object_key', '', stored ->> 'content_type', 0, now()
    FROM asked CROSS JOIN LATERAL jsonb_path_query(asked.sources, '$[*].stored') AS stored
    WHERE asked.state = 'CANCELLED' ON CONFLICT DO NOTHING
)
SELECT id, state FROM asked""")

# In the same order, and whatever somebody else is writing is left for the next time: so many locks at once could wait
# for others in a circle.
_LOCK_TASKS = statement("""
SELECT generation_id FROM poll_tasks WHERE generation_id = ANY(:ids) AND ended_at IS NULL FOR UPDATE SKIP LOCKED""")
_LOCK_ROWS = statement("""
SELECT id FROM generation_requests
WHERE id = ANY(:ids) AND state <> ALL(:terminal) AND (state <> 'PROCESSING' OR id = ANY(:with_tasks))
FOR UPDATE SKIP LOCKED""")


def cancel_all(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Ask for these to be cancelled, as far as nobody holds them; the ids of those that a dispatcher has claimed."""
    parameters = {"ids": list(ids), "terminal": sorted(states.TERMINAL)}
    with_tasks = list(connection.execute(_LOCK_TASKS, parameters).scalars())
    locked = list(connection.execute(_LOCK_ROWS, {**parameters, "with_tasks": with_tasks}).scalars())
    asked = connection.execute(_CANCEL, _parameters(locked, None)) if locked else ()
    return [row.id for row in asked if row.state == State.DISPATCHING]


def _parameters(ids: Sequence[str], owner: str | None) -> dict[str, Any]:
    for state in _AT_ONCE:
        states.check(state, State.CANCELLED)
    return {
        "ids": list(ids),
        "owner": owner,
        "at_once": _AT_ONCE,
        "terminal": sorted(states.TERMINAL),
        "error": CANCELLED_BY_CALLER,
    }


class CancelStore:
    """What the gateway writes of a cancel."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def request(self, generation_id: str, *, owner: str | None = None) -> State | None:
        """Ask for a generation to be cancelled; `owner`: only if it is theirs.

        Answers CANCELLED where it has ended with that, the state in which its holder will see the request otherwise,
        and None where it had ended before or does not exist.
        """
        parameters = _parameters([generation_id], owner)
        found = await self._database.transaction(
            "request_cancel", lambda c: c.execute(_CANCEL, parameters).one_or_none()
        )
        return None if found is None else State(found.state)
