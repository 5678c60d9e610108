"""Law 8: a part that is away costs time, not generations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.engine import Database
from tests.conftest import StartStack, quick
from tests.support.rows import rows
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually


@pytest.mark.parametrize("model", ["flux-pro", "gpt-image-1", "dall-e-3"])
async def test_results_wait_for_object_storage(
    start_stack: StartStack, simulator: Simulator, database: Database, model: str
) -> None:
    running = await start_stack(own_objects=True)
    await asyncio.to_thread(running.stack.children["object store"].kill)
    prompt = simulated("waiting", task_seconds=0)
    generation_id = await running.create(model, prompt)

    async def tried() -> bool:
        (row,) = await rows(database, "SELECT state, store_attempts FROM generation_requests")
        return bool(row["state"] == "STORING" and row["store_attempts"] >= 1)

    await eventually(tried, within=20, what="storing was tried")
    assert (await running.get(generation_id)).status == gateway_pb2.GENERATION_STATUS_PROCESSING
    await asyncio.to_thread(running.stack.children["object store"].start)

    generation = await running.ended(generation_id, within=40)
    assert generation.status == SUCCESS, generation.error
    assert generation.results[0].sha256
    assert len(await simulator.bills(prompt)) == 1
    assert await rows(database, "SELECT 1 FROM output_spool") == []


async def test_a_database_that_goes_away_in_the_middle_loses_nothing(
    start_stack: StartStack, simulator: Simulator
) -> None:
    running = await start_stack(own_postgres=True)
    assert running.stack.postgres is not None
    prompts = [simulated(f"cut {number}", task_seconds=0.5) for number in range(8)]
    models = ("flux-pro", "gpt-image-1", "dall-e-3")
    ids = [await running.create(models[index % 3], prompt) for index, prompt in enumerate(prompts)]

    async def billed() -> bool:
        return len(await simulator.bills()) == len(prompts)

    await eventually(billed, within=10, what="all are at their providers")
    await asyncio.to_thread(running.stack.postgres.stop, immediate=True)
    await asyncio.to_thread(running.stack.postgres.start)

    async def back() -> bool:
        return await asyncio.to_thread(running.health, "gateway") == "SERVING"

    await eventually(back, within=10, what="the gateway is ready again")
    ended = await asyncio.gather(*(running.ended(generation_id, within=30) for generation_id in ids))
    assert {generation.status for generation in ended} == {SUCCESS}, [g.error for g in ended if g.error.message]
    assert len(await simulator.bills()) == len(prompts)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        pytest.param({"kind": "500", "times": 2}, SUCCESS, 0, id="a host that stumbles"),
        pytest.param({"kind": "reset", "times": 1}, SUCCESS, 0, id="a connection cut"),
        pytest.param({"kind": "gone", "times": 2}, SUCCESS, 0, id="gone for a while"),
        pytest.param({"kind": "garbage", "times": 2}, SUCCESS, 0, id="not an image for a while"),
        pytest.param({"kind": "moderated"}, FAILED, common_pb2.ERROR_CODE_CONTENT_REJECTED, id="moderated"),
        pytest.param({"kind": "failed"}, FAILED, common_pb2.ERROR_CODE_TASK_FAILED, id="failed at the provider"),
    ],
)
async def test_bad_results_end_with_a_reason_or_are_fetched_again(
    running: Running, fault: dict[str, Any], status: int, code: int
) -> None:
    prompt = simulated("x", task_seconds=0, faults=[{"operation": "result", **fault}])
    generation = await running.ended(await running.create("flux-pro", prompt))
    assert (generation.status, generation.error.code) == (status, code)


@pytest.mark.parametrize("kind", ["500", "429", "html", "truncated", "reset", "error_in_ok"])
async def test_checks_that_fail_are_repeated(running: Running, kind: str) -> None:
    prompt = simulated("x", task_seconds=0, faults=[{"operation": "check", "kind": kind, "times": 3}])
    generation = await running.ended(await running.create("flux-pro", prompt))
    assert generation.status == SUCCESS
    # The HTTP client repeats a GET by itself where a kept connection was cut.
    assert 1 < generation.polls <= 4


async def test_a_task_that_never_ends_times_out(start_stack: StartStack) -> None:
    def short(catalog: dict[str, Any]) -> None:
        quick(catalog)
        catalog["models"]["flux-pro"]["polling"]["max_duration_seconds"] = 1

    running = await start_stack(adjust=short)
    generation = await running.ended(await running.create("flux-pro", simulated("x", task_seconds=600)))
    assert generation.status == FAILED
    assert generation.error.code == common_pb2.ERROR_CODE_TASK_TIMEOUT
    assert "within 1 s" in generation.error.message


async def test_a_state_that_nobody_has_heard_of_is_counted_and_logged_once(start_stack: StartStack) -> None:
    running = await start_stack()
    fault = {"operation": "check", "kind": "unknown_state", "times": 3}
    generation = await running.ended(await running.create("flux-pro", simulated("x", task_seconds=0, faults=[fault])))
    assert (generation.status, generation.polls) == (SUCCESS, 4)
    assert await running.metric("poller", "darkroom_adapter_unknown_states_total", provider="bfl") == 3
    assert running.log("poller").count("warming up") == 1
