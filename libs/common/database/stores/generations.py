"""Generations as clients see them: inserted in groups, read one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records import GenerationRecord, NewGeneration
from libs.common.database.states import State
from libs.common.database.stores.sets import records, rows_as_json, statement
from libs.common.database.tables import generation_requests, poll_tasks

# A minute of waiting is worth a step of priority, whatever else comes in: so the order never changes once it stands.
_INSERT = statement("""
INSERT INTO generation_requests (
    id, state, model_identifier, provider_id, media_type, prompt, input_images, number_of_outputs,
    parameters, priority, when_uncertain, user_id, labels, request_id, api_key_id, expected_cost_usd, fallbacks,
    turn_at)
SELECT id, 'PENDING', model_identifier, provider_id, media_type, prompt, input_images, number_of_outputs,
    parameters, priority, when_uncertain, user_id, labels, request_id, api_key_id, expected_cost_usd, fallbacks,
    now() - make_interval(mins => priority)
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(
    id text, model_identifier text, provider_id text, media_type text, prompt text, input_images jsonb,
    number_of_outputs smallint, parameters jsonb, priority smallint, when_uncertain text, user_id text,
    labels jsonb, request_id text, api_key_id text, expected_cost_usd float, fallbacks jsonb)
""")

_OWN_COLUMNS = (
    "id",
    "state",
    "model_identifier",
    "provider_id",
    "media_type",
    "prompt",
    "number_of_outputs",
    "parameters",
    "priority",
    "user_id",
    "labels",
    "request_id",
    "attempts",
    "provider_task_id",
    "outputs",
    "error",
    "cost_usd",
    "fallback_path",
    "next_attempt_at",
    "cancel_requested_at",
    "continues_id",
    "created_at",
    "updated_at",
    "submitted_at",
    "ended_at",
)
_continuation = generation_requests.alias()
_READ = sa.select(
    *(generation_requests.c[name] for name in _OWN_COLUMNS),
    sa.case(
        (generation_requests.c.state == State.SUCCESS, 100), else_=sa.func.coalesce(poll_tasks.c.progress, 0)
    ).label("progress"),
    sa.func.coalesce(poll_tasks.c.attempts, 0).label("polls"),
    sa.select(_continuation.c.id)
    .where(_continuation.c.continues_id == generation_requests.c.id)
    .scalar_subquery()
    .label("continued_by_id"),
).select_from(generation_requests.outerjoin(poll_tasks, poll_tasks.c.generation_id == generation_requests.c.id))


class GenerationStore:
    """Reads and writes of the gateway."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, generations: Sequence[NewGeneration]) -> None:
        """Commit all of `generations` as PENDING, or none, with one statement."""
        rows = rows_as_json(asdict(generation) for generation in generations)
        await self._database.transaction("insert_generations", lambda c: c.execute(_INSERT, {"rows": rows}))

    async def get(self, generation_id: str) -> GenerationRecord | None:
        """The generation of that id, or None."""

        def work(connection: Connection) -> list[GenerationRecord]:
            found = connection.execute(_READ.where(generation_requests.c.id == generation_id))
            return records(GenerationRecord, found)

        found = await self._database.transaction("get_generation", work)
        return found[0] if found else None
