"""Cancelling at every state: what has not left is not sent, what runs is stopped, what comes late is dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.engine import Database
from libs.common.errors import ErrorCode
from libs.common.rpc.errors import from_rpc_error
from tests.conftest import StartStack
from tests.support.http import call
from tests.support.infrastructure import Infrastructure
from tests.support.rows import rows
from tests.support.running import CANCELLED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

PROCESSING = gateway_pb2.GENERATION_STATUS_PROCESSING


async def test_before_the_submit_nothing_is_sent(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack(services=("gateway",))
    prompt = simulated("early")
    generation_id = await running.create("flux-pro", prompt)
    generation = await running.cancel(generation_id)
    assert (generation.status, generation.attempts) == (CANCELLED, 0)
    assert generation.error.code == common_pb2.ERROR_CODE_TASK_CANCELLED
    assert generation.HasField("cancel_requested_at")
    assert await simulator.bills(prompt) == []


@pytest.mark.parametrize("model", ["flux-schnell", "flux-dev-fal"])
async def test_at_the_provider_its_cancel_is_called(running: Running, simulator: Simulator, model: str) -> None:
    prompt = simulated("running", task_seconds=600)
    generation_id = await running.create(model, prompt)
    await running.reaches(generation_id, PROCESSING)
    await running.cancel(generation_id)
    generation = await running.ended(generation_id, within=5)
    assert generation.status == CANCELLED
    assert generation.error.details["cancelled_at_provider"] is True
    assert await simulator.cancelled(prompt) == [True]


@pytest.mark.parametrize("model", ["flux-pro", "sora-2"])
async def test_where_the_vendor_cannot_cancel_it_says_so(running: Running, model: str) -> None:
    generation_id = await running.create(model, simulated("running", task_seconds=600))
    await running.reaches(generation_id, PROCESSING)
    await running.cancel(generation_id)
    generation = await running.ended(generation_id, within=5)
    assert generation.status == CANCELLED
    assert generation.error.details["cancelled_at_provider"] is False
    assert "may still finish and bill it" in generation.error.message


async def test_a_late_reply_after_a_cancel_changes_nothing(running: Running, shared: Infrastructure) -> None:
    dropped = await running.metric("dispatcher", "darkroom_late_results_total", kind="submit")
    generation_id = await running.create("gpt-image-1", simulated("late", task_seconds=1.5))

    async def is_sent() -> bool:
        return (await running.get(generation_id)).attempts == 1

    await eventually(is_sent, within=10, what="it was sent")
    assert (await running.cancel(generation_id)).status != CANCELLED
    generation = await running.ended(generation_id)
    assert (generation.status, list(generation.results)) == (CANCELLED, [])
    assert await running.metric("dispatcher", "darkroom_late_results_total", kind="submit") == dropped + 1

    async def is_removed() -> bool:
        return not await asyncio.to_thread(_objects_of, shared.folder, generation_id)

    await eventually(is_removed, within=5, what="the object of the dropped result is gone")


def _objects_of(folder: Path, generation_id: str) -> list[Path]:
    return [path for path in folder.rglob(f"{generation_id}/*") if path.is_file()]


async def test_a_submit_whose_task_is_named_after_the_cancel_is_cancelled_there(
    running: Running, simulator: Simulator
) -> None:
    prompt = simulated("slow to answer", task_seconds=600, submit_seconds=1.5)
    generation_id = await running.create("flux-schnell", prompt)

    async def is_sent() -> bool:
        return (await running.get(generation_id)).attempts == 1

    await eventually(is_sent, within=10, what="it was sent")
    await running.cancel(generation_id)
    assert (await running.ended(generation_id)).status == CANCELLED
    assert await simulator.cancelled(prompt) == [True]


async def test_while_its_result_is_on_the_way_into_storage(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(own_objects=True)
    await asyncio.to_thread(running.stack.children["object store"].kill)
    generation_id = await running.create("dall-e-3", simulated("stored never", task_seconds=0))

    async def is_storing() -> bool:
        (row,) = await rows(database, "SELECT state FROM generation_requests")
        return bool(row["state"] == "STORING")

    await eventually(is_storing, within=15, what="it is to be stored")
    assert (await running.cancel(generation_id)).status == CANCELLED
    await asyncio.to_thread(running.stack.children["object store"].start)
    assert (await running.get(generation_id)).status == CANCELLED


async def test_one_that_has_ended_stays_as_it_is(running: Running) -> None:
    generation_id = await running.create("flux-pro", simulated("done", task_seconds=0))
    before = await running.ended(generation_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.cancel(generation_id)
    error = from_rpc_error(caught.value)
    assert (caught.value.code(), error.code) == (grpc.StatusCode.FAILED_PRECONDITION, ErrorCode.ALREADY_ENDED)
    assert error.details == {"status": "SUCCESS"}
    after = await running.get(generation_id)
    assert (before.status, after) == (SUCCESS, before)
    assert not after.HasField("cancel_requested_at")
    reply = await call(
        running.gateway_url(), f"/api/external/generation/{generation_id}", method="DELETE", key=running.admin_key
    )
    assert (reply.status, reply.json["code"]) == (409, "ALREADY_ENDED")


async def test_cancelling_twice_is_cancelling_once(running: Running) -> None:
    generation_id = await running.create("flux-schnell", simulated("twice", task_seconds=600))
    await running.reaches(generation_id, PROCESSING)
    found = await asyncio.gather(*(running.cancel(generation_id) for _ in range(5)), return_exceptions=True)
    failures = [error for error in found if isinstance(error, grpc.aio.AioRpcError)]
    # It may have ended before the last of them.
    assert {error.code() for error in failures} <= {grpc.StatusCode.FAILED_PRECONDITION}
    assert len(failures) < len(found)
    assert (await running.ended(generation_id)).status == CANCELLED


@pytest.mark.parametrize("generation_id", ["gen_nobody", "", "gen_\x00"])
async def test_what_does_not_exist_is_not_found(running: Running, generation_id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.cancel(generation_id)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_task_that_times_out_is_cancelled_at_the_provider(
    start_stack: StartStack, simulator: Simulator
) -> None:
    def hasty(catalog: dict[str, dict[str, dict[str, object]]]) -> None:
        for model in catalog["models"].values():
            model["polling"] = {"strategy": "fixed", "interval_seconds": 0.2, "max_duration_seconds": 1}

    running = await start_stack(adjust=hasty)
    prompt = simulated("for ever", task_seconds=600)
    generation = await running.ended(await running.create("flux-schnell", prompt))
    assert generation.error.code == common_pb2.ERROR_CODE_TASK_TIMEOUT
    assert generation.error.details["cancelled_at_provider"] is True
    assert await simulator.cancelled(prompt) == [True]
