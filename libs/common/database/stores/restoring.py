"""After the database went back in time: what may have been submitted since then is uncertain."""

from __future__ import annotations

import json
from collections.abc import Collection

from libs.common.database import states
from libs.common.database.engine import Database
from libs.common.database.states import State
from libs.common.database.stores.sets import statement
from libs.common.errors import ErrorCode, GenerationError

_NOT_SUBMITTED = (State.HELD, State.PENDING, State.DISPATCHING)
_IS_DOUBTFUL = """state IN ('HELD', 'PENDING', 'DISPATCHING') AND when_uncertain = 'fail'
    AND provider_id <> ALL(:idempotent)"""

_COUNT = statement(f"SELECT count(*) FROM generation_requests WHERE {_IS_DOUBTFUL}")

# One that was recorded before may have been repeated since: its provider knowing nothing of it proves nothing.
_DOUBT = statement(f"""
WITH doubtful AS (
    SELECT id, CAST(expected_cost_usd AS numeric) AS expected_cost_usd
    FROM generation_requests WHERE {_IS_DOUBTFUL} ORDER BY id LIMIT :limit FOR UPDATE
), started AS (
    UPDATE submissions s
    SET state = 'UNCERTAIN', ended_at = now(), error = CAST(:cause AS jsonb), at_risk_usd = doubtful.expected_cost_usd
    FROM doubtful WHERE s.generation_id = doubtful.id AND s.state = 'STARTED'
    RETURNING s.generation_id, s.id
), failed AS (
    UPDATE generation_requests g
    SET state = 'FAILED', error = CAST(:error AS jsonb) || jsonb_build_object('details', jsonb_build_object(
            'provider', g.provider_id, 'submission_id', COALESCE(started.id, replace(g.id, 'gen_', 'sub_')))),
        attempts = g.attempts + (started.generation_id IS NULL)::int, lease_token = g.lease_token + 1,
        lease_owner = NULL, lease_until = NULL, updated_at = now(), ended_at = now()
    FROM doubtful LEFT JOIN started ON started.generation_id = doubtful.id
    WHERE g.id = doubtful.id
    RETURNING g.id, g.attempts, g.provider_id, g.model_identifier, doubtful.expected_cost_usd,
        started.generation_id IS NOT NULL AS is_recorded
), recorded AS (
    INSERT INTO submissions (id, generation_id, attempt, provider_id, model_identifier, state, error, ended_at,
        expected_cost_usd, at_risk_usd)
    SELECT replace(id, 'gen_', 'sub_'), id, attempts, provider_id, model_identifier, 'UNCERTAIN',
        CAST(:cause AS jsonb), now(), expected_cost_usd, expected_cost_usd
    FROM failed WHERE NOT is_recorded
)
SELECT count(*) FROM failed""")

_CAUSE = GenerationError(ErrorCode.INTERNAL_ERROR, "The database went back to a time before what may have been sent.")
_ERROR = GenerationError(
    ErrorCode.SUBMISSION_UNCERTAIN,
    "The database went back to a time at which this had not been sent. It may have been sent, and billed, since then, "
    "so it is not sent again. Look it up in the provider's own list by the time and the prompt, and say what you found "
    "with ResolveSubmission.",
)


class RestoreStore:
    """What is done once to a database that was restored to a moment in the past, while no dispatcher runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, *, idempotent: Collection[str]) -> int:
        """How many generations may have been submitted since then, but for those that a repeat bills once all the same.

        `idempotent`: provider accounts that promise so. Who asked for `resubmit` has taken the second bill upon them.
        """
        parameters = {"idempotent": list(idempotent)}
        return await self._database.transaction(
            "count_doubtful", lambda c: int(c.execute(_COUNT, parameters).scalar_one())
        )

    async def doubt(self, limit: int, *, idempotent: Collection[str]) -> int:
        """End at most `limit` of them as SUBMISSION_UNCERTAIN, for operators to resolve; how many."""
        for state in _NOT_SUBMITTED:
            states.check(state, State.FAILED)
        parameters = {
            "idempotent": list(idempotent),
            "limit": limit,
            "cause": json.dumps(_CAUSE.to_json()),
            "error": json.dumps(_ERROR.to_json()),
        }
        return await self._database.transaction(
            "doubt_generations", lambda c: int(c.execute(_DOUBT, parameters).scalar_one())
        )
