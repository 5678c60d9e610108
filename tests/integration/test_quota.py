"""Quotas hold exactly, whichever replica is asked, and give back what was not used."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common.errors import GenerationError
from libs.common.rpc.errors import from_rpc_error
from tests.conftest import StartStack, quick
from tests.support.http import call
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import FAILS, Simulator, simulated
from tests.support.waiting import eventually, promptly


def five_cents(catalog: dict[str, Any]) -> None:
    quick(catalog)
    catalog["models"]["flux-pro"]["price_per_output_usd"] = 0.05


def _request(prompt: str, **fields: Any) -> gateway_pb2.CreateGenerationRequest:
    return gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt=prompt, **fields)


async def _refusal(stub: GenerationServiceStub, prompt: str) -> GenerationError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateGeneration(_request(prompt), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return from_rpc_error(caught.value)


async def _usage(running: Running, key_id: str) -> admin_pb2.ApiKeyUsage:
    found = await running.admin.ListApiKeys(admin_pb2.ListApiKeysRequest())
    return next(key.usage for key in found.api_keys if key.id == key_id)


async def test_a_dollar_lets_in_twenty_of_two_hundred_over_two_replicas(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), adjust=five_cents)
    replica = await running.stack_replica("gateway")
    made = await running.new_key("acme", quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=1))
    stubs = [GenerationServiceStub(running.channel_of(made.key, replica=name)) for name in ("gateway", replica)]
    for stub in stubs:
        await stub.ListModels(gateway_pb2.ListModelsRequest(), timeout=60, wait_for_ready=True)

    async def one(number: int) -> str:
        try:
            await stubs[number % 2].CreateGeneration(_request(f"number {number}"), timeout=30)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).code.value
        return "accepted"

    assert Counter(await asyncio.gather(*map(one, range(200)))) == {"accepted": 20, "QUOTA_EXCEEDED": 180}
    usage = await _usage(running, made.api_key.id)
    assert (usage.live_generations, round(usage.reserved_usd, 6), usage.spent_usd) == (20, 1.0, 0.0)
    listed = await stubs[0].ListGenerations(gateway_pb2.ListGenerationsRequest(page_size=100), timeout=60)
    assert len(listed.generations) == 20


async def test_a_budget_is_settled_with_a_success_and_returned_with_a_failure(
    start_stack: StartStack, simulator: Simulator
) -> None:
    running = await start_stack(adjust=five_cents)
    made = await running.new_key("acme", quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=0.1))
    stub = GenerationServiceStub(running.channel_of(made.key))
    good = (await stub.CreateGeneration(_request(simulated("good", task_seconds=0.2)))).id
    bad = (await stub.CreateGeneration(_request(simulated("bad", task_seconds=0.2, faults=FAILS)))).id
    refused = await _refusal(stub, "one too many")
    assert refused.details == {
        "quota": "monthly_budget_usd", "limit_usd": 0.1, "used_usd": 0.1, "requested_usd": 0.05,
        "reserved_usd": 0.1, "spent_usd": 0.0, "at_risk_usd": 0.0,
    }  # fmt: skip
    assert (refused.retry_after_seconds or 0) > 0

    assert (await running.ended(good)).status == SUCCESS
    assert (await running.ended(bad)).status == FAILED
    usage = await _usage(running, made.api_key.id)
    assert (usage.live_generations, usage.reserved_usd, round(usage.spent_usd, 6)) == (0, 0.0, 0.05)
    again = (await stub.CreateGeneration(_request(simulated("again", task_seconds=0.2)))).id
    assert (await running.ended(again)).status == SUCCESS
    await _refusal(stub, "the budget is spent")

    async def added_up() -> bool:
        found = await _usage(running, made.api_key.id)
        return round(found.spent_usd, 6) == 0.1 and found.live_generations == 0

    # The ledger's lines move into the sums meanwhile: nothing is counted twice, or not at all.
    await eventually(added_up, within=5, what="usage is what was spent")


async def test_live_generations_are_bounded_and_a_cancel_frees_a_place(running: Running) -> None:
    stub = await running.client("acme", quota=admin_pb2.ApiKeyQuota(live_generations=2))
    first = (await stub.CreateGeneration(_request(simulated("live one", task_seconds=60)))).id
    await stub.CreateGeneration(_request(simulated("live two", task_seconds=60)))
    refused = await _refusal(stub, "three")
    assert refused.details == {"quota": "live_generations", "limit": 2, "used": 2}
    assert refused.is_retryable
    await stub.CancelGeneration(gateway_pb2.CancelGenerationRequest(id=first))

    async def let_in() -> bool:
        try:
            return bool((await stub.CreateGeneration(_request("three"))).id)
        except grpc.aio.AioRpcError:
            return False

    await eventually(let_in, within=10, what="the cancel has freed a place")


async def test_requests_per_minute_come_back_evenly_and_are_told_over_rest(running: Running) -> None:
    made = await running.new_key("acme", quota=admin_pb2.ApiKeyQuota(requests_per_minute=30))
    stub = GenerationServiceStub(running.channel_of(made.key))
    answers = await asyncio.gather(
        *(stub.CreateGeneration(_request(simulated(f"rate {n}", task_seconds=0)), timeout=60) for n in range(40)),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 30
    body = {"modelIdentifier": "flux-pro", "prompt": "x"}
    reply = await call(running.gateway_url(), "/api/external/generation", method="POST", key=made.key, json_body=body)
    assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (429, "RATE_LIMITED", "2")
    assert reply.json["details"] == {"quota": "requests_per_minute", "limit": 30}

    async def let_in() -> bool:
        found = await call(
            running.gateway_url(), "/api/external/generation", method="POST", key=made.key, json_body=body
        )
        return found.status == 200

    await promptly(let_in, within=4, what="a token has come back after two seconds")


async def test_what_is_refused_is_not_kept_under_its_idempotency_key(running: Running) -> None:
    stub = await running.client("acme", quota=admin_pb2.ApiKeyQuota(live_generations=1))
    first = (await stub.CreateGeneration(_request(simulated("live one", task_seconds=60)))).id
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.CreateGeneration(_request("two", idempotency_key="two"))
    await stub.CancelGeneration(gateway_pb2.CancelGenerationRequest(id=first))
    await running.ended(first)
    answer = await stub.CreateGeneration(_request("two", idempotency_key="two"))
    assert not answer.is_repeat
