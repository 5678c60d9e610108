"""Experiments through the running stack: planned, allocated, measured, decided."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any

import grpc
import pytest
from darkroom.experiments.v1 import experiments_pb2
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.struct_pb2 import Struct

from libs.common.database.engine import Database
from tests.conftest import StartStack
from tests.support.experiments import (
    CHEAPER,
    SERVICES,
    SETTINGS,
    gateway_knows,
    results,
    service_answers,
    started,
    stub,
    users_of,
)
from tests.support.http import call
from tests.support.rows import execute, rows
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator
from tests.support.waiting import eventually

PLOTS = [experiments_pb2.PLOT_INTERVALS, experiments_pb2.PLOT_EFFECT, experiments_pb2.PLOT_ALLOCATION]
EXPERIMENTS = "/api/admin/experiments"
SMALL = {"size_or_ratio": "256x256"}


def failing(probability: float) -> str:
    """A template under which tasks fail at the provider."""
    fault = json.dumps({"operation": "result", "kind": "failed", "probability": probability})
    return f'{{prompt}} [sim {{"task_seconds": 0.2, "faults": [{fault}]}}]'


async def asked(running: Running, users: Sequence[str]) -> list[str]:
    """A request of each user."""
    return await asyncio.gather(
        *(running.create("flux-pro", f"apple for {user}", parameters=SMALL, user_id=user) for user in users)
    )


async def all_ended(running: Running, experiment_id: str, number: int) -> experiments_pb2.GetResultsResponse:
    """The results once so many generations have ended."""

    async def look() -> experiments_pb2.GetResultsResponse | None:
        found = await results(running, experiment_id)
        return found if sum(one.generations - one.in_flight for one in found.counts) >= number else None

    found = await eventually(look, within=60, what=f"{number} generations have ended")
    assert found is not None
    return found


async def rate(running: Running, generation_id: str, rating: int, **context: Any) -> gateway_pb2.RateGenerationResponse:
    """A user's opinion."""
    given = Struct()
    given.update(context)
    request = gateway_pb2.RateGenerationRequest(id=generation_id, rating=rating, feedback="so", context=given)
    return await running.gateway.RateGeneration(request, timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_from_a_plan_to_a_winner(start_stack: StartStack, simulator: Simulator, database: Database) -> None:
    running = await start_stack(services=SERVICES, settings=SETTINGS)
    await simulator.behave(task_seconds=0.2, active_tasks_limit=500)
    await service_answers(running)
    experiment_id, pro, dev = await _planned_and_started(running)
    users = await users_of(database, experiment_id, 80)
    ids = await asked(running, users)
    found = await all_ended(running, experiment_id, 160)
    assert found.winner.variant_id == dev
    assert found.winner.recommendation.startswith("Take 'dev' (flux-dev): 38 % lower cost ($0.025 against $0.04)")
    assert {cost.variant_id: round(cost.per_success_usd, 6) for cost in found.costs} == {pro: 0.04, dev: 0.025}

    generations = await asyncio.gather(*map(running.get, ids))
    assert {one.experiment_id for one in generations} == {experiment_id}
    assert {(one.variant_id, one.model_identifier, one.requested_model_identifier) for one in generations} == {
        (pro, "flux-pro", ""), (dev, "flux-dev", "flux-pro"),
    }  # fmt: skip
    again = await asyncio.gather(*map(running.get, await asked(running, users[:12])))
    assert [one.variant_id for one in again] == [one.variant_id for one in generations[:12]]
    await _rated_twice(running, experiment_id, pro, dev, generations[:120])
    await _refusals(running, ids[0])
    await _rolled_out(running, experiment_id, dev)
    await _ended(running, experiment_id, dev)


async def _planned_and_started(running: Running) -> tuple[str, str, str]:
    """An experiment by REST that the gateway knows of, and its variants."""
    key, url = running.admin_key, running.gateway_url()
    described = {
        **CHEAPER,
        "metrics": [
            {"name": "avg_cost", "type": "primary", "goal": "minimize"},
            {"name": "success_rate", "type": "guardrail", "goal": "maximize", "margin": 0.2},
            {"name": "user_rating", "type": "secondary", "goal": "maximize"},
        ],
        "trafficAllocation": {"variant_0": 50, "variant_1": 50},
    }
    made = await call(url, EXPERIMENTS, method="POST", key=key, json_body=described)
    assert (made.status, made.json["status"], made.json["metrics"][0]["type"]) == (200, "DRAFT", "PRIMARY")
    experiment_id = made.json["id"]
    assert (await results(running, experiment_id)).reason == "The experiment has not started."
    await _only_checked(running, described)
    reply = await call(url, f"{EXPERIMENTS}/{experiment_id}/start", method="POST", key=key, json_body={})
    assert (reply.status, reply.json["status"]) == (200, "RUNNING")
    await gateway_knows(running)
    pro, dev = (variant["id"] for variant in made.json["variants"])
    return experiment_id, pro, dev


async def _only_checked(running: Running, described: dict[str, Any]) -> None:
    """What is only checked is planned and not kept."""
    key, url = running.admin_key, running.gateway_url()
    body = {**described, "validateOnly": True, "plannedSamples": 5_000}
    answer = await call(url, EXPERIMENTS, method="POST", key=key, json_body=body)
    assert (answer.status, answer.json["status"], answer.json["plan"]["samples"]) == (200, "DRAFT", 5_000)
    assert (await call(url, f"{EXPERIMENTS}/{answer.json['id']}", key=key)).status == 404
    refused = await call(url, EXPERIMENTS, method="POST", key=key, json_body={**body, "variants": []})
    assert (refused.status, refused.json["violations"][0]["field"]) == (400, "variants")


async def _rolled_out(running: Running, experiment_id: str, dev: str) -> None:
    """All get the variant, and the experiment goes on."""
    key, url = running.admin_key, running.gateway_url()
    body = {"trafficAllocation": {"variant_1": 100}}
    path = f"{EXPERIMENTS}/{experiment_id}/allocation"
    changed = await call(url, path, method="POST", key=key, json_body=body)
    assert changed.json["trafficAllocation"] == {"variant_0": 0, "variant_1": 100}
    await gateway_knows(running)
    made = await asyncio.gather(*map(running.ended, await asked(running, [f"late {number}" for number in range(8)])))
    assert {one.variant_id for one in made} == {dev}
    assert (await call(url, f"{EXPERIMENTS}/{experiment_id}", key=key)).json["status"] == "RUNNING"


async def _rated_twice(
    running: Running, experiment_id: str, pro: str, dev: str, generations: Sequence[gateway_pb2.Generation]
) -> None:
    """What users think now counts, once each."""
    for opinion, revenue in ((2, 0.5), (4, 1.0)):
        for one in generations:
            await rate(running, one.id, 3 if one.variant_id == pro else opinion, revenue=revenue)
    rated = await results(
        running, experiment_id, value_metric="revenue", segment_by="weekday", plots=PLOTS, with_history=True
    )
    assert {point.variant_id for point in rated.history} == {dev}
    assert all(point.difference.low <= point.difference.value <= point.difference.high for point in rated.history)
    assert [point.at.ToDatetime() for point in rated.history] == sorted(one.at.ToDatetime() for one in rated.history)
    values = {(one.variant_id, one.metric): (one.samples, one.value) for one in rated.metrics}
    assert (values[pro, "user_rating"][1], values[dev, "user_rating"][1]) == (3.0, 4.0)
    assert values[pro, "user_rating"][0] + values[dev, "user_rating"][0] == len(generations)
    assert all(cost.return_per_usd > 0 for cost in rated.costs)
    assert [plot.plot for plot in rated.plots] == PLOTS
    assert all(plot.svg.startswith("<?xml") for plot in rated.plots)
    assert rated.segments[0].samples >= 160


async def _ended(running: Running, experiment_id: str, dev: str) -> None:
    """It pauses, ends for good, and still tells its results."""
    key, url = running.admin_key, running.gateway_url()
    for verb, status in (("pause", "PAUSED"), ("complete", "COMPLETED")):
        reply = await call(url, f"{EXPERIMENTS}/{experiment_id}/{verb}", method="POST", key=key, json_body={})
        assert reply.json["status"] == status
    refused = await call(url, f"{EXPERIMENTS}/{experiment_id}/start", method="POST", key=key, json_body={})
    assert (refused.status, refused.json["violations"][0]["rule"]) == (400, "state")
    assert (await call(url, f"{EXPERIMENTS}/{experiment_id}/results", key=key)).json["winner"]["variantId"] == dev
    listed = await call(url, f"{EXPERIMENTS}?status=completed", key=key)
    assert [one["id"] for one in listed.json["experiments"]] == [experiment_id]


async def _refusals(running: Running, generation_id: str) -> None:
    """Ratings that are none, and of what is nobody's or not the caller's."""
    faults: list[tuple[dict[str, Any], str]] = [
        ({"rating": 6}, "rating"),
        ({"rating": 3, "success_rate": 1}, "context.success_rate"),
        ({"rating": 3, "big": 1e300}, "context.big"),
        ({"rating": 3, "nul": "\x00"}, "context"),
        ({"rating": 3, "long": "x" * 9_000}, "context"),
    ]
    for fields, field in faults:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rate(running, generation_id, **fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (caught.value.details() or "").startswith(f"{field}:")
    other = await running.client("another")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await other.RateGeneration(gateway_pb2.RateGenerationRequest(id=generation_id, rating=3), timeout=60)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_variant_that_breaks_a_guardrail_is_taken_out_and_people_are_told(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    running = await start_stack(services=(*SERVICES, "monitor"), settings=SETTINGS)
    await simulator.behave(task_seconds=0.2, active_tasks_limit=500)
    guardrail = {"name": "success_rate", "type": "METRIC_ROLE_GUARDRAIL", "goal": "METRIC_GOAL_MAXIMIZE"}
    experiment = await started(
        running,
        variants=[CHEAPER["variants"][0], {"name": "broken", "modelIdentifier": "flux-dev", "prompt": failing(0.9)}],
        metrics=[CHEAPER["metrics"][0], guardrail],
    )
    _, broken = experiment.variants
    ids = await asked(running, await users_of(database, experiment.id, 60))
    await all_ended(running, experiment.id, 120)
    for one in await asyncio.gather(*map(running.get, ids)):
        assert one.status == SUCCESS or (one.status, one.variant_id) == (FAILED, broken.id)

    async def told() -> list[dict[str, Any]]:
        return await rows(database, "SELECT message FROM system_alerts WHERE type = 'EXPERIMENT_GUARDRAIL'")

    (alert,) = await eventually(told, within=20, what="people are told") or []
    why = f"({experiment.id}): variant 'broken' was taken out. It breaks the guardrail success rate"
    assert why in alert["message"]
    request = experiments_pb2.GetExperimentRequest(id=experiment.id)

    async def paused() -> experiments_pb2.Experiment | None:
        found = (await stub(running).GetExperiment(request, timeout=60)).experiment
        return found if found.status == experiments_pb2.EXPERIMENT_STATUS_PAUSED else None

    # One variant alone is no experiment.
    after = await eventually(paused, within=10, what="the experiment pauses")
    assert after is not None
    assert after.variants[1].HasField("paused_at")
    assert dict(after.traffic_allocation) == {"variant_0": 100.0, "variant_1": 0.0}
    await gateway_knows(running)
    (later,) = await asked(running, ["user 0"])
    assert (await running.get(later)).experiment_id == ""
    with pytest.raises(grpc.aio.AioRpcError, match="has one variant left"):
        await stub(running).StartExperiment(experiments_pb2.StartExperimentRequest(id=experiment.id), timeout=60)
    found = await results(running, experiment.id)
    assert "was taken out" in found.reason or "breaks the guardrail" in found.reason
    assert any(warning.startswith("Variant 'broken' was taken out") for warning in found.warnings)
    # A broken split is a broken measurement, whatever it says.
    await execute(database, "UPDATE experiment_arrivals SET units = units + 500 WHERE variant_id = :id", id=broken.id)
    withheld = await results(running, experiment.id)
    assert withheld.sample_ratio.is_mismatch
    assert withheld.reason.startswith("Results are withheld")
    assert (len(withheld.metrics), len(withheld.comparisons), withheld.HasField("winner")) == (0, 0, False)


@pytest.mark.timeout(300)
async def test_without_the_experiments_service_requests_run_plain(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    settings = {**SETTINGS, "DARKROOM_EXPERIMENT_STALE_SECONDS": "1"}
    running = await start_stack(services=("gateway", "experiments"), settings=settings)
    experiment = await started(running, trafficAllocation={"variant_0": 1, "variant_1": 99})
    (first,) = await asked(running, ["user 0"])
    assert (await running.get(first)).experiment_id == experiment.id
    allocated = await stub(running).AllocateVariant(
        experiments_pb2.AllocateVariantRequest(model_identifier="flux-pro", user_id="user 0"), timeout=60
    )
    assert allocated.experiment_id == experiment.id
    assert allocated.probability in {0.01, 0.99}
    change = experiments_pb2.ChangeAllocationRequest(
        id=experiment.id, traffic_allocation={"variant_0": 2, "variant_1": 98}
    )
    changed = (await stub(running).ChangeAllocation(change, timeout=60)).experiment
    assert dict(changed.traffic_allocation) == {"variant_0": 2.0, "variant_1": 98.0}
    running.stack.kill("experiments")

    async def plain() -> bool:
        (made,) = await asked(running, ["user 0"])
        return (await running.get(made)).experiment_id == ""

    await eventually(plain, within=15, what="requests run without experiments")
    assert await running.metric("gateway", "darkroom_experiment_requests_total", outcome="unknown") >= 1
    assert running.health("gateway") == "SERVING"
    running.stack.restart("experiments")

    async def takes_part() -> bool:
        (made,) = await asked(running, ["user 0"])
        return (await running.get(made)).experiment_id == experiment.id

    await eventually(takes_part, within=30, what="requests take part again")
    # Whatever came while it was dead is counted, and once.
    (row,) = await rows(database, "SELECT count(*) AS number FROM generation_requests WHERE experiment_id IS NOT NULL")

    async def all_counted() -> bool:
        # This test's own channel finds the service again when it likes.
        with contextlib.suppress(grpc.aio.AioRpcError):
            found = await results(running, experiment.id)
            return sum(one.generations for one in found.counts) == int(row["number"])
        return False

    await eventually(all_counted, within=10, what="all generations of the experiment are counted")
    assert await simulator.bills() == []
