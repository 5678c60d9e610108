"""Experiments in the database from the draft to the end: statuses, layers, shares, pages and plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_experiments import NewAllocation
from libs.common.database.states import ExperimentStatus
from libs.common.database.stores.experiment_measures import MeasureStore
from libs.common.database.stores.experiment_traffic import TrafficStore
from libs.common.database.stores.experiments import ExperimentStore, LayerFull
from services.experiments import buckets
from services.experiments.planning import planned as planned_by
from services.experiments.requests import experiment_of
from tests.support.experiment_rows import ENDED, WEIGHTS, planned, started
from tests.support.experiments import CHEAPER, create_request
from tests.support.rows import execute, insert, new_generation
from tests.unit.test_create_request import CATALOG


async def test_statuses_follow_their_table(database: Database) -> None:
    store = ExperimentStore(database)
    made = await planned(database)
    assert await store.move(made.id, ExperimentStatus.PAUSED) is None
    running = await store.start(made.id, buckets.free_ranges)
    assert running is not None
    assert running.started_at is not None
    assert await store.start(made.id, buckets.free_ranges) is None
    paused = await store.move(made.id, ExperimentStatus.PAUSED)
    assert paused is not None
    assert await store.running() == []
    again = await store.start(made.id, buckets.free_ranges)
    assert again is not None
    assert again.started_at == running.started_at
    ended = await store.move(made.id, ExperimentStatus.COMPLETED)
    assert ended is not None
    assert ended.ended_at is not None
    for target in ExperimentStatus:
        assert await store.move(made.id, target) is None
    assert not await store.reallocate(NewAllocation(made.id, 1, [6_000, 4_000], made.buckets, "operator"))


async def test_experiments_of_a_layer_get_parts_of_it_and_give_them_back(database: Database) -> None:
    store = ExperimentStore(database)
    first = await started(database, layer="look", targeting={"trafficPercent": 60})
    second = await planned(database, layer="look", targeting={"trafficPercent": 50})
    with pytest.raises(LayerFull):
        await store.start(second.id, buckets.free_ranges)
    assert (await store.get(second.id)) == second
    third = await started(database, layer="look", targeting={"trafficPercent": 40})
    assert (first.layer_ranges, third.layer_ranges) == ([[0, 6_000]], [[6_000, 10_000]])
    await store.move(first.id, ExperimentStatus.PAUSED)
    with pytest.raises(LayerFull):
        await store.start(second.id, buckets.free_ranges)
    await store.move(first.id, ExperimentStatus.COMPLETED)
    found = await store.start(second.id, buckets.free_ranges)
    assert found is not None
    assert found.layer_ranges == [[0, 5_000]]


async def test_shares_are_taken_over_once(database: Database) -> None:
    store = ExperimentStore(database)
    made = await started(database)
    new = NewAllocation(made.id, 1, WEIGHTS[1], buckets.moved(made.buckets, WEIGHTS[1]), "bandit")
    assert await store.reallocate(new)
    assert not await store.reallocate(new)
    later = replace(new, from_version=2, weights=[10_000, 0], buckets=bytes(10_000), reason="guardrail")
    assert await store.reallocate(later, pause=(made.variants[1].id, "It broke."))
    found = await store.get(made.id)
    assert found is not None
    assert (found.version, found.weights, found.variants[1].pause_reason) == (3, [10_000, 0], "It broke.")
    measured = await MeasureStore(database).read(made.id)
    assert [(one.version, one.weights, one.reason) for one in measured.allocations] == [
        (1, [5_000, 5_000], "planned"), (2, [2_000, 8_000], "bandit"), (3, [10_000, 0], "guardrail"),
    ]  # fmt: skip
    (notice,) = await store.notices()
    assert (notice.variant_id, notice.reason) == (made.variants[1].id, "It broke.")
    await store.notified(notice.variant_id)
    assert await store.notices() == []


async def test_an_experiment_whose_time_is_over_ends(database: Database) -> None:
    store = ExperimentStore(database)
    over, lasting, draft = [await planned(database, stopAt="2100-01-01T00:00:00Z") for _ in range(3)]
    for made in (over, lasting):
        await store.start(made.id, buckets.free_ranges)
    sql = "UPDATE experiments SET stop_at = now() - interval '1 s' WHERE id = ANY(:ids)"
    await execute(database, sql, ids=[over.id, draft.id])
    assert await store.complete_overdue() == [over.id]
    assert [found.id for found in await store.running()] == [lasting.id]


async def test_pages_go_newest_first(database: Database) -> None:
    made = [(await planned(database)).id for _ in range(3)]
    store = ExperimentStore(database)
    assert [found.id for found in await store.list_page(2)] == [made[2], made[1]]
    assert [found.id for found in await store.list_page(2, before=made[1])] == [made[0]]
    assert await store.list_page(2, status=ExperimentStatus.RUNNING) == []


@pytest.mark.parametrize(
    ("changes", "samples", "note"),
    [
        ({"minimumDetectableEffect": 0.1}, range(300, 3_000), "To find a difference of 10.0 points in success rate"),
        ({"minimumDetectableEffect": 1e-9}, range(1), "Nothing is planned: to find so small a difference"),
        ({"plannedSamples": 500}, range(500, 501), "As many samples as were asked for."),
        ({}, range(1), "Nothing is planned: no minimum detectable effect"),
        (
            {"minimumDetectableEffect": 0.1, "variants": [{**CHEAPER["variants"][1]}, {**CHEAPER["variants"][0]}]},
            range(1),
            "Nothing is planned: in the last 28 days flux-dev made too few",
        ),
    ],
)
async def test_a_plan_follows_from_what_was(
    database: Database, changes: dict[str, Any], samples: range, note: str
) -> None:
    made = [new_generation(id=f"gen_7zzzzzzzzz{number:016}", owner="shop") for number in range(60)]
    await insert(database, made)
    for number, generation in enumerate(made):
        state = "SUCCESS" if number % 4 else "FAILED"
        await execute(database, ENDED, id=generation.id, state=state, seconds=number, cost_usd=0.04)
    metrics = [{"name": "success_rate", "type": "METRIC_ROLE_PRIMARY", "goal": "METRIC_GOAL_MAXIMIZE"}]
    new = experiment_of(create_request(metrics=metrics, **changes), CATALOG)
    plan = (await planned_by(new, TrafficStore(database))).plan
    assert plan.note.startswith(note)
    assert plan.samples in samples
    if changes.get("minimumDetectableEffect") == 0.1 and plan.samples:
        assert plan.baseline == 0.75
        assert plan.samples_per_day == 60
        assert plan.days == pytest.approx(plan.samples / 60)
        assert 1.5 < plan.samples / plan.fixed_horizon_samples < 2.2
