"""What was measured of experiments: the same as if all of it were read again, in whatever order and parts it came."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_experiments import (
    DURATION_GROWTH,
    ExperimentRecord,
    NewAllocation,
    NewRating,
    SumsRecord,
    TargetRecord,
)
from libs.common.database.states import ExperimentStatus
from libs.common.database.stores.experiment_measures import MeasureStore
from libs.common.database.stores.experiment_segments import SegmentKind, SegmentStore
from libs.common.database.stores.experiment_traffic import TrafficStore
from libs.common.database.stores.experiments import ExperimentStore, LayerFull
from libs.common.database.stores.ratings import RatingStore
from services.experiments import buckets
from services.experiments.planning import planned as planned_by
from services.experiments.requests import experiment_of
from tests.support.experiments import CHEAPER, create_request
from tests.support.rows import execute, insert, new_generation, rows
from tests.unit.test_create_request import CATALOG

ENDED = """
UPDATE generation_requests SET state = :state, ended_at = created_at + make_interval(secs => :seconds),
    cost_usd = :cost_usd, outputs = CASE WHEN :state = 'SUCCESS' THEN '[]'::jsonb END,
    error = CASE WHEN :state = 'FAILED' THEN '{"code": "TASK_FAILED"}'::jsonb END
WHERE id = :id"""
WEIGHTS = ([5_000, 5_000], [2_000, 8_000])


async def planned(database: Database, **changes: Any) -> ExperimentRecord:
    """A draft."""
    return await ExperimentStore(database).create(experiment_of(create_request(**changes), CATALOG))


async def started(database: Database, **changes: Any) -> ExperimentRecord:
    """One that runs."""
    made = await planned(database, **changes)
    found = await ExperimentStore(database).start(made.id, buckets.free_ranges)
    assert found is not None
    return found


class World:
    """Generations of an experiment, and what they came to."""

    def __init__(self, database: Database, experiment: ExperimentRecord, seed: int) -> None:
        self.database = database
        self.experiment = experiment
        self.random = random.Random(seed)
        self.measures = MeasureStore(database)
        self.made: list[dict[str, Any]] = []

    async def make(self, version: int) -> None:
        """Some generations, by users who come again and without a user."""
        for _ in range(60):
            user = f"u{self.random.randrange(12)}" if self.random.random() < 0.6 else None
            variant = self.random.choice(self.experiment.variants).id
            generation = new_generation(
                experiment_id=self.experiment.id,
                variant_id=variant,
                experiment_version=version,
                user_id=user,
                owner="shop",
            )
            await insert(self.database, [generation])
            self.made.append({"id": generation.id, "user": user, "variant": variant, "version": version, "ratings": []})

    async def end(self) -> None:
        """Half of those that have not ended."""
        for one in [one for one in self.made if "state" not in one and self.random.random() < 0.5]:
            one["state"] = self.random.choice(["SUCCESS", "SUCCESS", "FAILED", "CANCELLED"])
            one["seconds"], one["cost_usd"] = self.random.uniform(1, 90), self.random.choice([None, 0.04, 0.08])
            await execute(self.database, ENDED, **{name: one[name] for name in ("id", "state", "seconds", "cost_usd")})

    async def rate(self) -> None:
        """Some that have succeeded, some of them again."""
        store = RatingStore(self.database)
        for one in [one for one in self.made if one.get("state") == "SUCCESS" and self.random.random() < 0.4]:
            context = {"revenue": self.random.uniform(0, 5), "why": "so"} if self.random.random() < 0.7 else {}
            one["ratings"].append({"user_rating": self.random.randint(1, 5), **context})
            rating = NewRating(one["id"], one["ratings"][-1]["user_rating"], "", context)
            assert await store.rate(rating, owner="shop") is not None

    def sums(self) -> dict[tuple[str, str], SumsRecord]:
        """All of it again, from the beginning."""
        by_unit: defaultdict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
        samples: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
        places = {variant.id: place for place, variant in enumerate(self.experiment.variants)}
        for one in self.made:
            weight = 10_000 / WEIGHTS[one["version"] - 1][places[one["variant"]]]
            for metric, value in _values(one).items():
                unit = by_unit[one["variant"], metric, one["user"] or one["id"]]
                unit[0] += weight * value
                unit[1] += weight
                samples[one["variant"], metric][0] += 1
                samples[one["variant"], metric][1] += value
        found = {}
        for (variant, metric), (count, total) in samples.items():
            units = [unit for (whose, which, _), unit in by_unit.items() if (whose, which) == (variant, metric)]
            found[variant, metric] = SumsRecord(
                variant, metric, int(count), total, len(units), sum(m for m, _ in units), sum(d for _, d in units),
                sum(m * m for m, _ in units), sum(d * d for _, d in units), sum(m * d for m, d in units),
            )  # fmt: skip
        return found


def _values(one: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    if one.get("state") in {"SUCCESS", "FAILED"}:
        found = {"success_rate": float(one["state"] == "SUCCESS"), "avg_cost": one["cost_usd"] or 0.0}
    if one.get("state") == "SUCCESS":
        found["avg_duration"] = one["seconds"]
    rating = one["ratings"][-1] if one["ratings"] else {}
    return found | {name: value for name, value in rating.items() if name != "why"}


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


async def test_segments_sum_to_the_whole(database: Database) -> None:
    experiment = await started(database)
    world = World(database, experiment, 3)
    await world.make(1)
    await execute(database, "UPDATE generation_requests SET labels = '{\"plan\": \"pro\"}' WHERE right(id, 1) < '5'")
    for _ in range(3):
        await world.end()
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
