"""Law 3: a process that was paused and wakes up late changes no row that others hold, and loses no reply."""

from __future__ import annotations

import asyncio
import signal

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from tests.conftest import StartStack
from tests.support.rows import opened, rows
from tests.support.running import FAILED, SUCCESS
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually


@pytest.mark.parametrize("model", ["flux-pro", pytest.param("gpt-image-1", marks=pytest.mark.slow)])
async def test_a_reply_that_a_late_dispatcher_holds_is_kept(
    start_stack: StartStack, simulator: Simulator, model: str
) -> None:
    running = await start_stack()
    prompt = simulated("paused", submit_seconds=1.5, task_seconds=0)
    generation_id = await running.create(model, prompt)

    async def billed() -> bool:
        return len(await simulator.bills(prompt)) == 1

    await eventually(billed, within=10, what="the provider has taken it")
    running.stack.children["dispatcher"].send(signal.SIGSTOP)
    await asyncio.to_thread(running.stack.add_replica, "dispatcher")

    failed = await running.ended(generation_id)
    assert (failed.status, failed.error.code) == (FAILED, common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN)
    running.stack.children["dispatcher"].send(signal.SIGCONT)

    async def continued() -> str:
        everything = await running.gateway.ListGenerations(gateway_pb2.ListGenerationsRequest(page_size=10))
        return next((found.id for found in everything.generations if found.continues_id == generation_id), "")

    late_id = await eventually(continued, within=10, what="the late reply is held by another generation")
    ended = await running.ended(late_id)
    assert (ended.status, len(ended.results)) == (SUCCESS, 1)
    again = await running.get(generation_id)
    assert (again.status, again.ended_at, again.continued_by_id) == (FAILED, failed.ended_at, late_id)
    assert len(await simulator.bills(prompt)) == 1
    assert await running.metric("dispatcher", "darkroom_fenced_writes_total", kind="dispatch") == 1


async def test_a_poller_that_wakes_up_late_changes_nothing(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack()
    prompt = simulated("slow", task_seconds=1)
    ids = [await running.create("flux-pro", prompt) for _ in range(5)]

    async def polled() -> bool:
        return (await running.get(ids[0])).polls >= 1

    await eventually(polled, within=10, what="the tasks are polled")
    running.stack.children["poller"].send(signal.SIGSTOP)
    await asyncio.to_thread(running.stack.add_replica, "poller")

    ended = await asyncio.gather(*(running.ended(generation_id) for generation_id in ids))
    running.stack.children["poller"].send(signal.SIGCONT)

    async def awake() -> bool:
        return await asyncio.to_thread(running.health, "poller") == "SERVING"

    await eventually(awake, within=10, what="the poller is back")
    again = [await running.get(generation_id) for generation_id in ids]
    assert [(g.status, g.ended_at) for g in again] == [(SUCCESS, g.ended_at) for g in ended]


# Of the read that goes on: whether it has begun, and whether another has failed.
_READS = {
    "check": "SELECT lease_owner IS NOT NULL AS begun, retry_count > 0 AS failed FROM poll_tasks",
    "result": """SELECT state = 'STORING' AND lease_owner IS NOT NULL AS begun,
        state = 'STORING' AND error IS NOT NULL AS failed FROM generation_requests""",
}


@pytest.mark.parametrize("read", ["check", pytest.param("result", marks=pytest.mark.slow)])
async def test_a_result_that_is_told_once_to_a_late_poller_is_stored(
    start_stack: StartStack, simulator: Simulator, read: str
) -> None:
    running = await start_stack()
    faults = [{"operation": read, "kind": "404", "spared": 1}]
    prompt = simulated("once", task_seconds=0, faults=faults, **{f"{read}_wait_seconds": 2})
    generation_id = await running.create("flux-pro", prompt)
    async with opened(running.stack.environment["DARKROOM_DATABASE_URL"]) as database:

        async def has(what: str) -> bool:
            found = await rows(database, _READS[read])
            return bool(found and found[0][what])

        await eventually(lambda: has("begun"), within=10, what="the result is read")
        await asyncio.sleep(0.5)
        poller = running.stack.children["poller"]
        poller.send(signal.SIGSTOP)
        await asyncio.to_thread(running.stack.add_replica, "poller")
        await eventually(lambda: has("failed"), within=15, what="another poller gets 404")
        poller.send(signal.SIGCONT)
    ended = await running.ended(generation_id)
    assert (ended.status, len(ended.results)) == (SUCCESS, 1)
    assert len(await simulator.bills(prompt)) == 1


@pytest.mark.slow
async def test_two_dispatchers_and_two_pollers_share_the_work(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack()
    for service in ("dispatcher", "poller"):
        await asyncio.to_thread(running.stack.add_replica, service)
    await simulator.behave(active_tasks_limit=1_000)
    prompts = [simulated(f"shared {number}", task_seconds=0.3) for number in range(60)]
    ids = await asyncio.gather(*(running.create("flux-pro", prompt) for prompt in prompts))
    ended = await asyncio.gather(*(running.ended(generation_id, within=40) for generation_id in ids))
    assert {generation.status for generation in ended} == {SUCCESS}
    assert {generation.attempts for generation in ended} == {1}
    assert len(await simulator.bills()) == 60
