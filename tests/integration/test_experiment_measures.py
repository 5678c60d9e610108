"""What was measured of experiments: the same as if all of it were read again, in whatever order and parts it came."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_experiments import (
    DURATION_GROWTH,
    ExperimentRecord,
    NewAllocation,
    SumsRecord,
    TargetRecord,
)
from libs.common.database.stores.experiment_measures import MeasureStore
from libs.common.database.stores.experiment_segments import SegmentKind, SegmentStore
from libs.common.database.stores.experiment_traffic import TrafficStore
from libs.common.database.stores.experiments import ExperimentStore
from libs.common.database.stores.inserting import COPIED, copied
from services.experiments import buckets
from tests.support.experiment_rows import CONTINUE, ENDED, WEIGHTS, started
from tests.support.experiment_world import World
from tests.support.rows import execute, insert, new_generation, rows


@pytest.mark.parametrize("seed", [1, 2])
async def test_sums_are_those_of_all_that_happened(database: Database, seed: int) -> None:
    experiment = await started(database)
    world = World(database, experiment, seed)
    for version in (1, 2):
        if version == 2:
            new = NewAllocation(experiment.id, 1, WEIGHTS[1], buckets.moved(experiment.buckets, WEIGHTS[1]), "operator")
            assert await ExperimentStore(database).reallocate(new)
        for _ in range(2):
            await world.make(version)
            await world.end()
            await world.carry_on()
            await world.rate()
            # Parts of any size, so that what belongs together comes apart.
            await world.measures.fold(world.random.randrange(5, 60))
    await world.rate()
    while await world.measures.fold(37):
        pass
    measured = await world.measures.read(experiment.id)
    found = {(sums.variant_id, sums.metric): sums for sums in measured.sums}
    wanted = world.sums()
    assert found.keys() == wanted.keys()
    for key, sums in wanted.items():
        for name in ("samples", "total", "units", "m", "d", "mm", "dd", "md"):
            assert getattr(found[key], name) == pytest.approx(getattr(sums, name), rel=1e-6, abs=1e-6), (key, name)
    assert await rows(database, "SELECT 1 FROM experiment_ledger") == []
    _check_durations(world, {(one.variant_id, one.bucket): one.samples for one in measured.durations})
    _check_arrivals(world, measured.arrivals)


def _check_durations(world: World, found: dict[tuple[str, int], int]) -> None:
    wanted: defaultdict[tuple[str, int], int] = defaultdict(int)
    for one in world.made:
        if one.get("state") == "SUCCESS":
            wanted[one["variant"], math.ceil(math.log(one["seconds"] * 1_000) / math.log(DURATION_GROWTH))] += 1
    assert found == wanted


def _check_arrivals(world: World, arrivals: Any) -> None:
    seen: set[str] = set()
    wanted: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for one in world.made:
        counts = wanted[one["version"], one["variant"]]
        counts[0] += one["user"] not in seen
        counts[1] += 1
        counts[2] += "state" in one
        counts[3] += one.get("state") == "CANCELLED"
        seen |= {one["user"]} if one["user"] else set()
    found = {(one.version, one.variant_id): [one.units, one.generations, one.ended, one.cancelled] for one in arrivals}
    assert found == wanted


async def _measured(database: Database, experiment: ExperimentRecord) -> tuple[dict[str, SumsRecord], list[int]]:
    """The sums of the first variant by metric, and its arrivals: units, generations, ended, cancelled."""
    store = MeasureStore(database)
    while await store.fold(100):
        pass
    found = await store.read(experiment.id)
    (arrivals,) = found.arrivals
    sums = {sums.metric: sums for sums in found.sums if sums.samples}
    return sums, [arrivals.units, arrivals.generations, arrivals.ended, arrivals.cancelled]


async def test_a_continuation_takes_the_place_of_an_outcome_from_its_beginning(database: Database) -> None:
    experiment = await started(database)
    first = new_generation(experiment_id=experiment.id, variant_id=experiment.variants[0].id, experiment_version=1)
    await insert(database, [first])
    await execute(database, ENDED, id=first.id, state="FAILED", seconds=9.0, cost_usd=None)
    sums, arrivals = await _measured(database, experiment)
    assert (sums["success_rate"].m, sums["success_rate"].samples, arrivals) == (0, 1, [1, 1, 1, 0])
    await execute(database, CONTINUE, id=first.id, new_id="gen_second")
    sums, arrivals = await _measured(database, experiment)
    assert (sums, arrivals) == ({}, [1, 1, 0, 0]), "what goes on has no outcome yet, and is no new arrival"
    await execute(database, ENDED, id="gen_second", state="SUCCESS", seconds=4.0, cost_usd=0.04)
    sums, arrivals = await _measured(database, experiment)
    assert {name: (one.samples, one.total, one.units) for name, one in sums.items()} == {
        "success_rate": (1, 1.0, 1),
        "avg_duration": (1, 4.0, 1),
        "avg_cost": (1, 0.04, 1),
    }
    assert arrivals == [1, 1, 1, 0]


async def test_a_late_result_counts_without_a_duration_and_once(database: Database) -> None:
    experiment = await started(database)
    first = new_generation(
        experiment_id=experiment.id, variant_id=experiment.variants[0].id, experiment_version=1, user_id="u1"
    )
    await insert(database, [first])
    await execute(database, ENDED, id=first.id, state="FAILED", seconds=9.0, cost_usd=None)
    late = f"""
        INSERT INTO generation_requests (id, {COPIED}, state, continues_id, is_late, outputs, cost_usd, ended_at)
        SELECT :new_id, {copied("g")}, 'SUCCESS', g.id, true, '[]', 0.5, now() FROM generation_requests g
        WHERE g.id = :id"""
    await execute(database, late, id=first.id, new_id="gen_late")
    sums, arrivals = await _measured(database, experiment)
    assert {name: (one.samples, one.total) for name, one in sums.items()} == {
        "success_rate": (1, 1.0),
        "avg_cost": (1, 0.5),
    }
    await execute(database, late, id=first.id, new_id="gen_later")
    assert (await _measured(database, experiment))[0] == sums, "only the first continuation counts"
    assert arrivals == [1, 1, 1, 0]


async def test_segments_sum_to_the_whole(database: Database) -> None:
    experiment = await started(database)
    world = World(database, experiment, 3)
    await world.make(1)
    await execute(database, "UPDATE generation_requests SET labels = '{\"plan\": \"pro\"}' WHERE right(id, 1) < '5'")
    for _ in range(3):
        await world.end()
        await world.carry_on()
        await world.rate()
    while await world.measures.fold(500):
        pass
    store, wanted = SegmentStore(database), world.sums()
    cuts: list[tuple[SegmentKind, set[str]]] = [
        ("user", {"new"}), ("label", {"pro", ""}), ("model", {"flux-pro"}), ("api_key", {""}),
    ]  # fmt: skip
    for kind, segments in cuts:
        for metric in ("success_rate", "avg_duration", "avg_cost", "user_rating", "revenue"):
            found = await store.read(experiment.id, kind, metric, label="plan")
            assert {record.segment for record in found} <= segments
            for variant in experiment.variants:
                mine = [record.sums for record in found if record.sums.variant_id == variant.id]
                whole = wanted[variant.id, metric]
                assert sum(sums.samples for sums in mine) == whole.samples
                assert sum(sums.m for sums in mine) == pytest.approx(whole.m)
    weekdays = await store.read(experiment.id, "weekday", "avg_cost")
    assert {record.segment for record in weekdays} <= {
        "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
    }  # fmt: skip


async def test_what_users_did_before_is_known_of_those_who_return(database: Database) -> None:
    for number, user in enumerate(["returning", "returning", "other"]):
        await insert(database, [before := new_generation(user_id=user, owner="shop")])
        await execute(database, ENDED, id=before.id, state="SUCCESS", seconds=10 + number, cost_usd=0.04)
    await insert(database, [foreign := new_generation(user_id="returning", owner="another")])
    await execute(database, ENDED, id=foreign.id, state="FAILED", seconds=5, cost_usd=0.0)
    experiment = await started(database)
    (first, _) = experiment.variants
    made = [
        new_generation(
            experiment_id=experiment.id, variant_id=first.id, experiment_version=1, user_id=user, owner="shop"
        )
        for user in ("returning", "new")
    ]
    await insert(database, made)
    for generation in made:
        await execute(database, ENDED, id=generation.id, state="SUCCESS", seconds=7, cost_usd=0.02)
    measures = MeasureStore(database)
    await measures.fold(100)
    found = {sums.metric: sums for sums in (await measures.read(experiment.id)).sums}
    duration = found["avg_duration"]
    assert (duration.units, duration.a, duration.b, duration.aa, duration.ab) == (2, 21.0, 2.0, 441.0, 42.0)
    assert (duration.ma, duration.db) == pytest.approx((14.0 * 21, 2.0 * 2))
    segments = await SegmentStore(database).read(experiment.id, "user", "avg_cost")
    assert {record.segment: record.sums.units for record in segments} == {"new": 1, "returning": 1}


async def test_snapshots_are_taken_at_each_twentieth_more(database: Database) -> None:
    experiment = await started(database)
    world = World(database, experiment, 4)
    for _ in range(3):
        await world.make(1)
        await world.end()
        await world.measures.fold(1_000)
    snapshots = await world.measures.snapshots(experiment.id)
    units: defaultdict[Any, int] = defaultdict(int)
    for snapshot in snapshots:
        units[snapshot.at] += snapshot.sums.units
        assert snapshot.sums.metric == "avg_cost"
    grown = list(units.values())
    assert len(grown) >= 2
    assert grown[0] >= 20
    assert all(later >= 1.05 * earlier for earlier, later in itertools.pairwise(grown))


async def test_traffic_and_baseline_are_those_of_requests_like_these(database: Database) -> None:
    for number in range(40):
        generation = new_generation(
            id=f"gen_7zzzzzzzzz{number:016}",
            user_id=f"u{number % 10}",
            owner="shop",
            labels={"plan": "pro"} if number < 20 else {},
            api_key_id="key_1",
        )
        await insert(database, [generation])
        await execute(
            database,
            ENDED,
            id=generation.id,
            state="SUCCESS" if number % 4 else "FAILED",
            seconds=number,
            cost_usd=0.04,
        )
    store = TrafficStore(database)
    traffic = await store.traffic(TargetRecord(["flux-pro"]))
    assert (traffic.units_per_day, traffic.generations_per_day) == (10, 40)
    half = await store.traffic(TargetRecord(["flux-pro"], labels={"plan": "pro"}, traffic_buckets=5_000))
    assert half.generations_per_day == 10
    assert (await store.traffic(TargetRecord(["flux-pro"], ["key_2"]))).units_per_day == 0
    assert (await store.traffic(TargetRecord(["flux-dev"]))).units_per_day == 0
    rate = await store.baseline("flux-pro", "success_rate")
    assert (rate.units, rate.m, rate.d, rate.dd) == (10, 30, 40, 160)
    assert (await store.baseline("flux-pro", "revenue")).units == 0
