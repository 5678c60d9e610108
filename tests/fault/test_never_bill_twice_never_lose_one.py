"""Laws 1, 3 and 4: whatever process dies at whatever point, all ends, with a reason, and with one bill at most."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.crashpoints import CrashPoint
from libs.common.database.engine import Database
from libs.common.settings import ServiceName
from tests.conftest import StartStack
from tests.support.rows import rows
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated

MODELS = ("flux-pro", "flux-dev", "gpt-image-1", "dall-e-3", "flux-pro", "gpt-image-1")
# Recorded and never answered: nobody can know whether the provider took it.
UNCERTAIN = {
    CrashPoint.DISPATCHER_ATTEMPT_RECORDED,
    CrashPoint.DISPATCHER_REPLY_RECEIVED,
    CrashPoint.DISPATCHER_OUTPUT_STORED,
}


def _points(service: ServiceName, *quick: CrashPoint) -> list[Any]:
    """All points at which a service can die, of which these run with the quick tests."""
    points = [point for point in CrashPoint if point.startswith(f"{service}.")]
    return [point if point in quick else pytest.param(point, marks=pytest.mark.slow) for point in points]


async def _crash(running: Running, service: ServiceName) -> dict[str, str]:
    """Create generations until the service has died over them. Return their prompts by their ids."""
    prompts = [simulated(f"picture {number}", task_seconds=0.3) for number in range(len(MODELS))]
    ids = await asyncio.gather(*(running.create(model, prompt) for model, prompt in zip(MODELS, prompts, strict=True)))
    await running.has_died(service)
    return dict(zip(ids, prompts, strict=True))


async def _recover(
    running: Running, service: ServiceName, made: dict[str, str]
) -> list[tuple[str, gateway_pb2.Generation]]:
    """Start the service again. Return the prompts, each with its generation once it has ended."""
    await running.restart(service, {"DARKROOM_CRASH_AT": ""})
    ended = await asyncio.gather(*(running.ended(generation_id, within=30) for generation_id in made))
    return list(zip(made.values(), ended, strict=True))


@pytest.mark.parametrize(
    "point", _points("dispatcher", CrashPoint.DISPATCHER_CLAIMED, CrashPoint.DISPATCHER_REPLY_RECEIVED)
)
async def test_a_dispatcher_that_dies_at_any_point(
    start_stack: StartStack, simulator: Simulator, database: Database, point: CrashPoint
) -> None:
    running = await start_stack(settings={"DARKROOM_CRASH_AT": point})
    made = await _crash(running, "dispatcher")
    if point is not CrashPoint.DISPATCHER_OUTCOME_WRITTEN:
        assert await rows(database, "SELECT 1 FROM generation_requests WHERE state = 'DISPATCHING'")
    outcomes = await _recover(running, "dispatcher", made)

    bills = Counter(bill["prompt"] for bill in await simulator.bills())
    codes: Counter[str] = Counter()
    for prompt, generation in outcomes:
        assert bills[prompt] <= 1, prompt
        if generation.status == SUCCESS:
            assert bills[prompt] == 1
            assert generation.results[0].url
        else:
            assert generation.status == FAILED
            assert generation.error.message
            codes[common_pb2.ErrorCode.Name(generation.error.code)] += 1
    assert set(codes) <= {"ERROR_CODE_SUBMISSION_UNCERTAIN"}
    if point in UNCERTAIN:
        assert codes
    if point is CrashPoint.DISPATCHER_CLAIMED:
        # A claim is not an attempt: nothing had left, so nothing is uncertain.
        assert not codes


@pytest.mark.parametrize("point", _points("poller", CrashPoint.POLLER_RESULT_STORED))
async def test_a_poller_that_dies_at_any_point(
    start_stack: StartStack, simulator: Simulator, point: CrashPoint
) -> None:
    running = await start_stack(settings={"DARKROOM_CRASH_AT": point})
    outcomes = await _recover(running, "poller", await _crash(running, "poller"))

    bills = Counter(bill["prompt"] for bill in await simulator.bills())
    for prompt, generation in outcomes:
        assert generation.status == SUCCESS, generation.error
        assert generation.results[0].sha256
        assert bills[prompt] == 1


async def test_a_gateway_that_dies_loses_no_ticket_that_it_gave(start_stack: StartStack) -> None:
    running = await start_stack()
    prompt = simulated("x", task_seconds=0.2)
    ids = await asyncio.gather(*(running.create("flux-pro", prompt) for _ in range(20)))
    await asyncio.to_thread(running.stack.children["gateway"].kill)
    await running.restart("gateway")
    ended = await asyncio.gather(*(running.ended(generation_id) for generation_id in ids))
    assert {generation.status for generation in ended} == {SUCCESS}


async def test_everything_dies_at_once_and_all_ends(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack()
    prompts = [simulated(f"power cut {number}", task_seconds=0.5) for number in range(20)]
    ids = [await running.create(("flux-pro", "gpt-image-1")[index % 2], prompt) for index, prompt in enumerate(prompts)]
    services: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller")
    for service in services:
        await asyncio.to_thread(running.stack.children[service].kill)
    for service in services:
        await running.restart(service)

    ended = await asyncio.gather(*(running.ended(generation_id, within=30) for generation_id in ids))

    bills = Counter(bill["prompt"] for bill in await simulator.bills())
    for prompt, generation in zip(prompts, ended, strict=True):
        assert bills[prompt] <= 1
        if generation.status != SUCCESS:
            assert generation.error.code == common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
