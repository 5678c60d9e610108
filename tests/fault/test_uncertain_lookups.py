"""Law 4: a submission whose reply is lost is looked up until its task is found, and never sent again meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
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

LOST = [{"operation": "submit", "kind": "reset", "after": True, "times": 1}]
NEVER = 3_600


def _hasty(catalog: dict[str, Any]) -> None:
    quick(catalog)
    catalog["providers"]["kling"]["limits"] = {"submit_timeout_seconds": 1, "concurrent_submits": 2}


async def _started(start_stack: StartStack, settings: Mapping[str, str] | None = None) -> Running:
    return await start_stack(adjust=_hasty, settings=settings)


async def _is_looked_up(running: Running, count: int = 1) -> None:
    async def is_so() -> bool:
        return await running.metric("dispatcher", "darkroom_dispatcher_lookups_waiting", provider="kling") >= count

    await eventually(is_so, within=10, what=f"{count} or more submissions are being looked up")


async def test_task_that_the_vendor_shows_late_is_found_and_billed_once(
    start_stack: StartStack, simulator: Simulator
) -> None:
    running = await _started(start_stack)
    prompt = simulated("late", task_seconds=0, lookup_delay_seconds=1.5, faults=LOST)
    generation = await running.ended(await running.create("kling-v1-6", prompt))
    assert (generation.status, generation.attempts) == (SUCCESS, 1)
    assert len(await simulator.bills(prompt)) == 1


async def test_task_that_is_never_shown_stays_uncertain_and_is_not_sent_again(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    running = await _started(start_stack)
    prompt = simulated("never", task_seconds=0, lookup_delay_seconds=NEVER, faults=LOST)
    generation = await running.ended(await running.create("kling-v1-6", prompt))
    assert (generation.status, generation.attempts) == (FAILED, 1)
    assert generation.error.code == common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
    assert len(await simulator.bills(prompt)) == 1
    (row,) = await rows(database, "SELECT state, EXTRACT(EPOCH FROM ended_at - started_at) AS seconds FROM submissions")
    assert row["state"] == "UNCERTAIN"
    # The submit's timeout, and the margin of these tests.
    assert row["seconds"] >= 1 + 1


async def test_request_that_consents_to_a_second_payment_is_sent_again_after_the_lookups(
    start_stack: StartStack, simulator: Simulator
) -> None:
    running = await _started(start_stack)
    prompt = simulated("consents", task_seconds=0, lookup_delay_seconds=NEVER, faults=LOST)
    policy = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT
    generation = await running.ended(await running.create("kling-v1-6", prompt, when_uncertain=policy))
    assert (generation.status, generation.attempts) == (SUCCESS, 2)
    bills = await simulator.bills(prompt)
    assert len(bills) == 2
    assert bills[1]["billed_at"] - bills[0]["billed_at"] >= 1 + 1


async def test_submissions_that_are_looked_up_hold_no_place_of_others(
    start_stack: StartStack, simulator: Simulator
) -> None:
    settings = {
        "DARKROOM_SUBMIT_CONCURRENCY": "2",
        "DARKROOM_LOOKUP_MARGIN_SECONDS": "600",
        "DARKROOM_LOOKUPS_PER_ACCOUNT": "3",
    }
    running = await _started(start_stack, settings)
    lost = simulated("lost", task_seconds=0, lookup_delay_seconds=NEVER, faults=[LOST[0] | {"times": None}])
    for _ in range(6):
        await running.create("kling-v1-6", lost)
    # Two places give way to lookups as they are lost, until the account's bound is reached.
    await _is_looked_up(running, 3)
    others = [await running.create("flux-pro", simulated(f"other {number}", task_seconds=0)) for number in range(5)]
    ended = await asyncio.gather(*(running.ended(generation_id) for generation_id in others))
    assert {generation.status for generation in ended} == {SUCCESS}
    # The last may have been sent when the others came to be looked up.
    assert len(await simulator.bills(lost)) in {3, 4}


@pytest.mark.slow
async def test_dispatcher_that_dies_while_it_looks_is_followed_by_one_that_looks(
    start_stack: StartStack, simulator: Simulator
) -> None:
    running = await _started(start_stack, {"DARKROOM_LOOKUP_MARGIN_SECONDS": "600"})
    prompt = simulated("orphan", task_seconds=0, lookup_delay_seconds=6, faults=LOST)
    generation_id = await running.create("kling-v1-6", prompt)
    await _is_looked_up(running)
    await asyncio.to_thread(running.stack.children["dispatcher"].kill)
    await running.restart("dispatcher")
    generation = await running.ended(generation_id, within=30)
    assert (generation.status, generation.attempts) == (SUCCESS, 1)
    assert len(await simulator.bills(prompt)) == 1


@pytest.mark.slow
async def test_dispatcher_that_stops_does_not_wait_for_lookups(start_stack: StartStack, simulator: Simulator) -> None:
    running = await _started(start_stack, {"DARKROOM_LOOKUP_MARGIN_SECONDS": "600"})
    prompt = simulated("left", task_seconds=0, lookup_delay_seconds=NEVER, faults=LOST)
    await running.create("kling-v1-6", prompt)
    await _is_looked_up(running)
    running.stack.children["dispatcher"].send(signal.SIGTERM)
    assert await asyncio.to_thread(running.stack.children["dispatcher"].wait, 20) == 0
    await running.restart("dispatcher")
    await _is_looked_up(running)
    assert len(await simulator.bills(prompt)) == 1
