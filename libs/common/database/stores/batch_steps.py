"""Steps of batches that more than one transaction takes: dependencies settled, places filled.

A place is what `max_concurrency` counts: whatever is released and has not ended. Whoever ends a generation hands its
place on by a trigger, one for one; here places are counted. Count and hand-over never give out more than there are,
because what others have not committed yet looks as if it still held its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database import states
from libs.common.database.ranges import IN_RANGE, IdRange
from libs.common.database.states import State
from libs.common.database.stores.sets import statement
from libs.common.errors import ErrorCode

RELEASED_STATES = "('PENDING', 'DISPATCHING', 'PROCESSING', 'STORING')"

# What is the case now: nobody's change is added up, so that it may be done twice, and by two at once.
_SETTLE = statement(f"""
WITH touched AS (
    SELECT * FROM unnest(CAST(:batch_ids AS text[]), CAST(:batch_indexes AS int[])) AS t(batch_id, batch_index)
), child AS (
    SELECT DISTINCT d.batch_id, d.batch_index FROM touched
    JOIN batch_dependencies d ON d.batch_id = touched.batch_id AND d.needs_index = touched.batch_index
), waiting AS (
    SELECT g.id, g.batch_id, g.batch_index FROM child JOIN generation_requests g USING (batch_id, batch_index)
    WHERE g.state = 'HELD' AND g.waits_for > 0 ORDER BY g.id FOR UPDATE OF g
), verdict AS (
    SELECT waiting.id, count(*) FILTER (WHERE maker.ended_at IS NULL) AS unmet,
        (array_agg(CASE WHEN maker.error->>'code' = '{ErrorCode.SKIPPED}' THEN maker.error->'details'
                ELSE jsonb_build_object(
                    'generation_id', maker.id, 'batch_index', maker.batch_index, 'ref', maker.batch_ref,
                    'code', maker.error->>'code', 'message', maker.error->>'message') END ORDER BY maker.batch_index)
            FILTER (WHERE d.is_required AND maker.state IN ('FAILED', 'CANCELLED')))[1] AS cause
    FROM waiting JOIN batch_dependencies d USING (batch_id, batch_index)
    JOIN generation_requests maker ON maker.batch_id = d.batch_id AND maker.batch_index = d.needs_index
        AND NOT EXISTS (SELECT FROM generation_requests later WHERE later.continues_id = maker.id AND NOT later.is_late)
    GROUP BY waiting.id
), settled AS (
    UPDATE generation_requests g
    SET waits_for = verdict.unmet,
        state = CASE WHEN cause IS NULL THEN g.state ELSE 'CANCELLED' END,
        error = CASE WHEN cause IS NOT NULL THEN jsonb_build_object('code', '{ErrorCode.SKIPPED}', 'details', cause,
            'message', format('It was not run: %s, which it depends on, did not succeed: %s.',
                COALESCE(cause->>'ref', 'request ' || (cause->>'batch_index')), cause->>'code'),
            'is_retryable', false) END,
        ended_at = CASE WHEN cause IS NOT NULL THEN now() END, updated_at = now()
    FROM verdict WHERE g.id = verdict.id AND (verdict.unmet <> g.waits_for OR verdict.cause IS NOT NULL)
    RETURNING g.id, g.batch_id, g.model_identifier, g.provider_id, g.state,
        CAST(EXTRACT(EPOCH FROM now() - g.created_at) AS float) AS seconds
)
SELECT id, batch_id, model_identifier, provider_id, '{ErrorCode.SKIPPED}' AS code, seconds FROM settled
WHERE state = 'CANCELLED'""")

# As with claims, accounts are found by hops along an index, and each deals as many as there are places; places go round
# the accounts, so that one that is full leaves some to the others. In a batch whose order is strict the first that has
# not been released bars all that follow.
_FREE = statement(f"""
WITH RECURSIVE roomy AS (
    SELECT * FROM (
        SELECT b.id, b.is_parallel, b.max_concurrency - (
            SELECT count(*) FROM generation_requests g
            WHERE g.batch_id = b.id AND g.state IN {RELEASED_STATES} AND g.id {IN_RANGE}) AS places
        FROM generation_batches b
        WHERE b.ended_at IS NULL AND b.stopped_at IS NULL AND b.cancel_requested_at IS NULL
            AND (CAST(:batch_id AS text) IS NULL OR b.id = :batch_id)
            AND EXISTS (SELECT FROM generation_requests g
                WHERE g.batch_id = b.id AND g.state = 'HELD' AND g.waits_for = 0 AND g.id {IN_RANGE})) counted
    WHERE places > 0
), accounts AS (
    SELECT roomy.id AS batch_id, roomy.places, (
        SELECT min(g.provider_id) FROM generation_requests g
        WHERE g.batch_id = roomy.id AND g.state = 'HELD' AND g.waits_for = 0 AND g.id {IN_RANGE}) AS provider_id
    FROM roomy
    UNION ALL
    SELECT accounts.batch_id, accounts.places, (
        SELECT min(g.provider_id) FROM generation_requests g
        WHERE g.batch_id = accounts.batch_id AND g.state = 'HELD' AND g.waits_for = 0
            AND g.provider_id > accounts.provider_id AND g.id {IN_RANGE})
    FROM accounts WHERE accounts.provider_id IS NOT NULL
), dealt AS (
    SELECT ready.id, accounts.batch_id, ready.batch_index,
        row_number() OVER (PARTITION BY accounts.batch_id ORDER BY ready.round, ready.batch_index) AS place
    FROM accounts CROSS JOIN LATERAL (
        SELECT g.id, g.batch_index, row_number() OVER (ORDER BY g.batch_index) AS round FROM generation_requests g
        WHERE g.batch_id = accounts.batch_id AND g.provider_id = accounts.provider_id
            AND g.state = 'HELD' AND g.waits_for = 0 AND g.id {IN_RANGE}
        ORDER BY g.batch_index LIMIT accounts.places) ready
)
SELECT dealt.id FROM dealt JOIN roomy ON roomy.id = dealt.batch_id
WHERE dealt.place <= roomy.places AND (roomy.is_parallel OR NOT EXISTS (
    SELECT FROM generation_requests g WHERE g.batch_id = roomy.id AND g.state = 'HELD' AND g.waits_for > 0
        AND g.batch_index < dealt.batch_index AND g.id {IN_RANGE}))""")

_RELEASE = statement("SELECT * FROM release_generations(:ids)")


def settle(connection: Connection, ended: Sequence[tuple[str, int]]) -> list[Any]:
    """Let what depends on these places of batches go as far as they have come; the rows of what is skipped."""
    if not ended:
        return []
    states.check(State.HELD, State.CANCELLED)
    parameters = {"batch_ids": [batch_id for batch_id, _ in ended], "batch_indexes": [index for _, index in ended]}
    return list(connection.execute(_SETTLE, parameters))


def fill(connection: Connection, live: IdRange, batch_id: str | None = None) -> list[str]:
    """Release as many as have a place, of one batch or of all, among the `live` ids; their ids."""
    free = list(connection.execute(_FREE, {"batch_id": batch_id, **live.parameters}).scalars())
    return release(connection, free)


def release(connection: Connection, ids: Sequence[str]) -> list[str]:
    """Release these, as far as they are held; the ids of those that were."""
    if not ids:
        return []
    states.check(State.HELD, State.PENDING)
    return list(connection.execute(_RELEASE, {"ids": list(ids)}).scalars())
