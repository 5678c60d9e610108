"""Law 4: what happens when a submit's reply is lost, by policy."""

from __future__ import annotations

from typing import Any

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.crashpoints import CrashPoint
from tests.conftest import StartStack, quick
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated


@pytest.mark.parametrize("model", ["flux-pro", "gpt-image-1"])
@pytest.mark.parametrize("kind", ["reset", "500", "truncated"])
async def test_by_default_it_is_not_sent_again(running: Running, simulator: Simulator, model: str, kind: str) -> None:
    prompt = simulated(
        "lost", task_seconds=0, faults=[{"operation": "submit", "kind": kind, "after": True, "times": 1}]
    )
    generation = await running.ended(await running.create(model, prompt))
    assert (generation.status, generation.attempts) == (FAILED, 1)
    is_kept = kind == "truncated"
    code = common_pb2.ERROR_CODE_PROVIDER_ERROR if is_kept else common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
    assert generation.error.code == code
    assert str(generation.error.details["submission_id"]).startswith("sub_")
    assert not generation.error.is_retryable
    assert len(await simulator.bills(prompt)) == 1


async def test_a_request_may_ask_for_at_least_once(running: Running, simulator: Simulator) -> None:
    prompt = simulated(
        "lost", task_seconds=0, faults=[{"operation": "submit", "kind": "reset", "after": True, "times": 1}]
    )
    policy = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT
    generation = await running.ended(await running.create("flux-pro", prompt, when_uncertain=policy))
    assert (generation.status, generation.attempts) == (SUCCESS, 2)
    assert len(await simulator.bills(prompt)) == 2


@pytest.mark.parametrize("model", ["flux-pro", "gpt-image-1"])
async def test_a_refusal_for_now_is_sent_again_and_billed_once(
    running: Running, simulator: Simulator, model: str
) -> None:
    prompt = simulated("busy", task_seconds=0, faults=[{"operation": "submit", "kind": "429", "times": 2}])
    generation = await running.ended(await running.create(model, prompt))
    assert (generation.status, generation.attempts) == (SUCCESS, 3)
    assert len(await simulator.bills(prompt)) == 1


async def test_a_refusal_for_good_fails_at_once(running: Running, simulator: Simulator) -> None:
    prompt = simulated("bad", faults=[{"operation": "submit", "kind": "400"}])
    generation = await running.ended(await running.create("flux-pro", prompt))
    assert (generation.status, generation.attempts) == (FAILED, 1)
    assert generation.error.code == common_pb2.ERROR_CODE_INVALID_REQUEST
    assert await simulator.bills(prompt) == []


async def test_a_provider_that_cannot_be_reached_is_tried_and_then_told(start_stack: StartStack) -> None:
    def unreachable(catalog: dict[str, Any]) -> None:
        quick(catalog)
        catalog["providers"]["bfl"]["base_url"] = "http://127.0.0.1:9"

    running = await start_stack(adjust=unreachable)
    generation = await running.ended(await running.create("flux-pro", "x"))
    assert (generation.status, generation.attempts) == (FAILED, 3)
    assert generation.error.code == common_pb2.ERROR_CODE_PROVIDER_UNAVAILABLE
    other = await running.ended(await running.create("gpt-image-1", simulated("others do not notice", task_seconds=0)))
    assert other.status == SUCCESS


async def test_missing_credentials_are_told_and_nothing_is_sent(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack(settings={"BFL_API_KEY": ""})
    generation = await running.ended(await running.create("flux-pro", "x"))
    assert (generation.status, generation.attempts) == (FAILED, 0)
    assert generation.error.code == common_pb2.ERROR_CODE_AUTHENTICATION_FAILED
    assert "BFL_API_KEY" in generation.error.message
    assert await simulator.bills("x") == []


@pytest.mark.parametrize("kind", ["reset", "500", "truncated", "timeout"])
async def test_a_vendor_that_can_be_asked_is_asked(start_stack: StartStack, simulator: Simulator, kind: str) -> None:
    running = await start_stack(adjust=_hasty)
    prompt = simulated(
        "lost", task_seconds=0, faults=[{"operation": "submit", "kind": kind, "after": True, "times": 1}]
    )
    generation = await running.ended(await running.create("kling-v1-6", prompt))
    assert (generation.status, generation.attempts) == (SUCCESS, 1)
    assert len(await simulator.bills(prompt)) == 1


def _hasty(catalog: dict[str, Any]) -> None:
    quick(catalog)
    catalog["providers"]["kling"]["limits"] = {"submit_timeout_seconds": 1}


@pytest.mark.slow
async def test_an_attempt_that_a_death_cut_short_does_not_count_as_the_last(
    start_stack: StartStack, simulator: Simulator
) -> None:
    def one_attempt(catalog: dict[str, Any]) -> None:
        _hasty(catalog)
        catalog["providers"]["kling"]["retry"] = {"attempts": 1}

    running = await start_stack(
        adjust=one_attempt, settings={"DARKROOM_CRASH_AT": CrashPoint.DISPATCHER_ATTEMPT_RECORDED}
    )
    prompt = simulated("cut short", task_seconds=0)
    policy = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT
    generation_id = await running.create("kling-v1-6", prompt, when_uncertain=policy)
    await running.has_died("dispatcher")
    await running.restart("dispatcher", {"DARKROOM_CRASH_AT": ""})
    generation = await running.ended(generation_id)
    assert (generation.status, generation.attempts) == (SUCCESS, 2)
    assert len(await simulator.bills(prompt)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "bills"), [(CrashPoint.DISPATCHER_ATTEMPT_RECORDED, 0), (CrashPoint.DISPATCHER_REPLY_RECEIVED, 1)]
)
async def test_a_dispatcher_that_dies_is_followed_by_one_that_asks(
    start_stack: StartStack, simulator: Simulator, point: CrashPoint, bills: int
) -> None:
    running = await start_stack(adjust=_hasty, settings={"DARKROOM_CRASH_AT": point})
    prompt = simulated("lost", task_seconds=0)
    generation_id = await running.create("kling-v1-6", prompt)
    await running.has_died("dispatcher")
    await running.restart("dispatcher", {"DARKROOM_CRASH_AT": ""})
    generation = await running.ended(generation_id)
    assert (generation.status, generation.attempts) == (SUCCESS if bills else FAILED, 1)
    if not bills:
        # The vendor does not promise that its lookups are consistent: finding nothing proves nothing.
        assert generation.error.code == common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
    assert len(await simulator.bills(prompt)) == bills
