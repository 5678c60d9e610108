"""A provider that is down: its breaker opens, its requests wait or go elsewhere, and it is seen from outside."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.gateway.v1 import gateway_pb2

from tests.conftest import StartStack, quick
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

AWAY = [{"operation": "submit", "kind": "reset"}]


def _sensitive(catalog: dict[str, Any]) -> None:
    quick(catalog)
    for provider in catalog["providers"].values():
        provider["breaker"] = {"minimum_calls": 3, "open_seconds": 1, "longest_open_seconds": 1}
        provider["retry"] = {"attempts": 1}


async def _queue(running: Running, provider_id: str) -> dispatcher_pb2.ProviderQueue:
    stub = DispatcherServiceStub(running.channel("dispatcher"))
    answer = await stub.GetQueue(dispatcher_pb2.GetQueueRequest(provider_id=provider_id), timeout=60)
    (found,) = answer.providers
    return found


async def _opened(running: Running) -> None:
    failing = simulated("failing", faults=AWAY)
    ids = [await running.create("flux-pro", failing) for _ in range(3)]
    ended = await asyncio.gather(*(running.ended(generation_id) for generation_id in ids))
    assert {generation.status for generation in ended} == {FAILED}

    async def is_open() -> bool:
        return (await _queue(running, "bfl")).breaker_state != dispatcher_pb2.BREAKER_STATE_CLOSED

    await eventually(is_open, within=5, what="the breaker is open")


async def test_it_opens_lets_a_probe_pass_and_closes_by_itself(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack(adjust=_sensitive)
    assert running.health("dispatcher", "provider.bfl") == "SERVING"
    await _opened(running)

    async def is_seen() -> bool:
        shown = await running.metric("dispatcher", "darkroom_breaker_state", provider="bfl")
        return shown > 0 and running.health("dispatcher", "provider.bfl") == "NOT_SERVING"

    await eventually(is_seen, within=5, what="health and metrics show it")
    # Another provider does not notice, and the service itself is ready.
    assert running.health("dispatcher", "provider.tuzi") == "SERVING"
    assert running.health("dispatcher") == "SERVING"

    prompts = [simulated(f"after {number}", task_seconds=0) for number in range(5)]
    ids = [await running.create("flux-pro", prompt) for prompt in prompts]
    ended = await asyncio.gather(*(running.ended(generation_id) for generation_id in ids))
    assert {(generation.status, generation.attempts) for generation in ended} == {(SUCCESS, 1)}

    async def is_closed() -> bool:
        found = await _queue(running, "bfl")
        return found.breaker_state == dispatcher_pb2.BREAKER_STATE_CLOSED and not found.HasField("breaker_retry_at")

    await eventually(is_closed, within=5, what="the breaker is closed")
    for prompt in prompts:
        assert len(await simulator.bills(prompt)) == 1


async def test_while_it_is_open_nothing_is_sent_but_probes(start_stack: StartStack, simulator: Simulator) -> None:
    def long_open(catalog: dict[str, Any]) -> None:
        _sensitive(catalog)
        catalog["providers"]["bfl"]["breaker"] = {"minimum_calls": 3, "open_seconds": 600, "longest_open_seconds": 600}

    running = await start_stack(adjust=long_open)
    await _opened(running)
    prompt = simulated("waits", task_seconds=0)
    waiting = await running.create("flux-pro", prompt)
    other = await running.ended(await running.create("dall-e-3", simulated("other", task_seconds=0)))
    assert other.status == SUCCESS
    found = await running.get(waiting)
    assert (found.status, found.attempts) == (gateway_pb2.GENERATION_STATUS_PENDING, 0)
    assert await simulator.bills(prompt) == []
    assert (await _queue(running, "bfl")).pending == 1


async def test_what_waits_for_an_open_breaker_goes_to_its_fallback(
    start_stack: StartStack, simulator: Simulator
) -> None:
    def long_open(catalog: dict[str, Any]) -> None:
        _sensitive(catalog)
        catalog["providers"]["bfl"]["breaker"] = {"minimum_calls": 3, "open_seconds": 600, "longest_open_seconds": 600}
        catalog["models"]["flux-dev"]["fallbacks"] = ["flux-pro", "flux-dev-fal"]

    running = await start_stack(adjust=long_open)
    await _opened(running)
    by_request, by_catalog = simulated("by request", task_seconds=0), simulated("by catalog", task_seconds=0)
    first = await running.ended(await running.create("flux-pro", by_request, fallback_models=["flux-dev", "dall-e-3"]))
    second = await running.ended(await running.create("flux-dev", by_catalog))
    assert (first.status, first.model_identifier, first.attempts) == (SUCCESS, "dall-e-3", 1)
    assert (second.status, second.model_identifier) == (SUCCESS, "flux-dev-fal")
    (step,) = first.fallback_path
    assert (step.model_identifier, step.provider_id) == ("flux-pro", "bfl")
    assert step.code == common_pb2.ERROR_CODE_PROVIDER_UNAVAILABLE
    assert step.HasField("left_at")
    assert [bill["vendor"] for bill in await simulator.bills(by_request)] == ["openai"]


async def test_an_account_without_credit_hands_on(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack(adjust=_sensitive)
    prompt = simulated("poor", task_seconds=0, faults=[{"operation": "submit", "kind": "error_in_ok", "times": 1}])
    generation = await running.ended(await running.create("gpt-image-1", prompt, fallback_models=["flux-dev-fal"]))
    assert (generation.status, generation.model_identifier, generation.attempts) == (SUCCESS, "flux-dev-fal", 2)
    assert [step.code for step in generation.fallback_path] == [common_pb2.ERROR_CODE_QUOTA_EXCEEDED]
    assert [bill["vendor"] for bill in await simulator.bills(prompt)] == ["fal"]
    assert await running.metric("dispatcher", "darkroom_fallbacks_total", code="QUOTA_EXCEEDED") == 1


async def test_a_lost_reply_never_falls_back(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack(adjust=_sensitive)
    prompt = simulated("lost", faults=[{"operation": "submit", "kind": "reset", "after": True}])
    generation = await running.ended(await running.create("flux-pro", prompt, fallback_models=["dall-e-3"]))
    assert generation.error.code == common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
    assert [bill["vendor"] for bill in await simulator.bills(prompt)] == ["bfl"]


async def test_moderation_is_not_evaded_by_a_fallback(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack(adjust=_sensitive)
    prompt = simulated("bad", faults=[{"operation": "result", "kind": "moderated"}])
    generation = await running.ended(await running.create("gpt-image-1", prompt, fallback_models=["flux-dev-fal"]))
    assert generation.error.code == common_pb2.ERROR_CODE_CONTENT_REJECTED
    assert list(generation.fallback_path) == []


async def test_a_rate_is_kept_and_used(start_stack: StartStack, simulator: Simulator) -> None:
    def five_a_second(catalog: dict[str, Any]) -> None:
        quick(catalog)
        catalog["providers"]["fal"]["limits"] = {"requests_per_second": 5}

    running = await start_stack(adjust=five_a_second)
    await running.stack_replica("dispatcher")
    ids = [await running.create("flux-dev-fal", simulated(f"rate {number}", task_seconds=0)) for number in range(20)]
    for generation_id in ids:
        assert (await running.ended(generation_id, within=30)).status == SUCCESS
    times = sorted(bill["billed_at"] for bill in await simulator.bills())
    # A bucket of a second's worth, and then five a second: any six within a second would be one too many after it.
    assert times[-1] - times[0] >= (20 - 5) / 5 - 0.5
    assert times[-1] - times[0] <= 3 * (20 - 5) / 5


@pytest.mark.parametrize("limit", [0.1])
async def test_a_daily_spend_is_kept(start_stack: StartStack, simulator: Simulator, limit: float) -> None:
    def ten_cents(catalog: dict[str, Any]) -> None:
        quick(catalog)
        catalog["providers"]["fal"]["limits"] = {"daily_spend_usd": limit}

    running = await start_stack(adjust=ten_cents)
    ids = [await running.create("flux-dev-fal", simulated(f"dear {number}", task_seconds=0)) for number in range(6)]

    async def spent() -> bool:
        return len(await simulator.bills()) == 4

    await eventually(spent, within=10, what="four times 0.025 US dollars were spent")

    async def four_have_ended() -> bool:
        statuses = [(await running.get(generation_id)).status for generation_id in ids]
        return statuses.count(gateway_pb2.GENERATION_STATUS_SUCCESS) == 4

    await eventually(four_have_ended, within=10, what="what was sent has ended")
    found = await _queue(running, "fal")
    assert found.spend_today_usd == pytest.approx(limit)
    assert found.daily_spend_limit_usd == pytest.approx(limit)
    statuses = [(await running.get(generation_id)).status for generation_id in ids]
    assert statuses.count(gateway_pb2.GENERATION_STATUS_PENDING) == 2
