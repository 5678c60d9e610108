"""Experiments in the database: drafts, experiments that run, and statements that end and continue generations."""

from __future__ import annotations

from typing import Any

from libs.common.database.engine import Database
from libs.common.database.records_experiments import ExperimentRecord
from libs.common.database.stores.experiments import ExperimentStore
from libs.common.database.stores.inserting import COPIED, copied
from services.experiments import buckets
from services.experiments.requests import experiment_of
from tests.support.experiments import create_request
from tests.unit.test_create_request import CATALOG

# Ends a generation: id, state, seconds since it was made, cost_usd.
ENDED = """
UPDATE generation_requests SET state = :state, ended_at = created_at + make_interval(secs => :seconds),
    cost_usd = :cost_usd, outputs = CASE WHEN :state = 'SUCCESS' THEN '[]'::jsonb END,
    error = CASE WHEN :state = 'FAILED' THEN '{"code": "TASK_FAILED"}'::jsonb END
WHERE id = :id"""
# Makes the continuation :new_id of the generation :id.
CONTINUE = f"""
INSERT INTO generation_requests (id, {COPIED}, state, continues_id, submitted_at)
SELECT :new_id, {copied("g")}, 'PENDING', g.id, now() FROM generation_requests g WHERE g.id = :id"""
# Shares of the two variants by version of the allocation, in hundredths of a percent.
WEIGHTS = ([5_000, 5_000], [2_000, 8_000])


async def planned(database: Database, **changes: Any) -> ExperimentRecord:
    """Create a draft. `changes`: fields of the request."""
    return await ExperimentStore(database).create(experiment_of(create_request(**changes), CATALOG))


async def started(database: Database, **changes: Any) -> ExperimentRecord:
    """Create an experiment and start it. `changes`: fields of the request."""
    made = await planned(database, **changes)
    found = await ExperimentStore(database).start(made.id, buckets.free_ranges)
    assert found is not None
    return found
