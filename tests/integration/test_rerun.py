"""Reruns: a new generation from one that has ended, for its owner, and never a second payment without consent."""

from __future__ import annotations

import itertools
from typing import Any

import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.client.client import Client
from libs.client.errors import DarkroomError
from libs.common.rpc.errors import from_rpc_error
from tests.support.http import call
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated

LOST_REPLY = [{"operation": "submit", "kind": "reset", "after": True, "times": 1}]
FIELD = "accepted_second_payment_usd"
_numbers = itertools.count()


async def _create(stub: GenerationServiceStub, prompt: str, model: str = "flux-schnell", **fields: Any) -> str:
    request = gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=prompt, **fields)
    return (await stub.CreateGeneration(request, timeout=60)).id


async def _rerun(stub: GenerationServiceStub, generation_id: str, **fields: Any) -> str:
    request = gateway_pb2.RerunGenerationRequest(id=generation_id, **fields)
    return (await stub.RerunGeneration(request, timeout=60)).id


async def _refused(stub: GenerationServiceStub, generation_id: str, **fields: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _rerun(stub, generation_id, **fields)
    return from_rpc_error(caught.value)


def _prompt(**changes: Any) -> str:
    return simulated(f"rerun {next(_numbers)}", task_seconds=0, **changes)


async def test_an_admins_rerun_belongs_to_the_owner_of_the_original(running: Running, simulator: Simulator) -> None:
    made = await running.new_key("owner-of-reruns", quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=10))
    shop = GenerationServiceStub(running.channel_of(made.key))
    prompt = _prompt()
    original = await running.ended(await _create(shop, prompt, labels={"team": "red"}, user_id="u1", priority=7))
    new_id = await _rerun(running.gateway, original.id)
    rerun = (await shop.GetGeneration(gateway_pb2.GetGenerationRequest(id=new_id))).generation
    assert rerun.rerun_of_id == original.id
    for name in ("api_key_id", "model_identifier", "prompt", "labels", "user_id", "priority", "parameters"):
        assert getattr(rerun, name) == getattr(original, name), name
    assert (await running.ended(new_id)).status == SUCCESS
    assert list((await running.get(original.id)).rerun_ids) == [new_id]
    assert len(await simulator.bills(prompt)) == 2
    (key,) = (await running.admin.ListApiKeys(admin_pb2.ListApiKeysRequest(owner="owner-of-reruns"))).api_keys
    assert key.usage.spent_usd == pytest.approx(2 * original.cost_usd)


async def test_a_client_reruns_its_own_and_no_others(running: Running) -> None:
    shop, other = await running.client("rerunner"), await running.client("stranger")
    original = await running.ended(await _create(shop, _prompt()))
    assert (await _refused(other, original.id)).code == "NOT_FOUND"
    new_id = await _rerun(shop, original.id)
    assert (await running.ended(new_id)).status == SUCCESS


async def test_a_quota_bounds_reruns(running: Running) -> None:
    made = await running.new_key("poor", quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=0.0031))
    poor = GenerationServiceStub(running.channel_of(made.key))
    original = await running.ended(await _create(poor, _prompt()))
    assert (await _refused(running.gateway, original.id)).code == "QUOTA_EXCEEDED"


async def test_one_idempotency_key_makes_one_rerun(running: Running, simulator: Simulator) -> None:
    prompt = _prompt()
    original = await running.ended(await running.create("flux-schnell", prompt))
    first = await _rerun(running.gateway, original.id, idempotency_key="again-1")
    assert await _rerun(running.gateway, original.id, idempotency_key="again-1") == first
    await running.ended(first)
    assert len(await simulator.bills(prompt)) == 2
    other = await _refused(running.gateway, original.id, idempotency_key="again-1", model_identifier="flux-dev")
    assert other.code == "ALREADY_EXISTS"


async def test_another_model_gets_the_parameters_if_they_fit(running: Running) -> None:
    original = await running.ended(await running.create("flux-pro", _prompt(), parameters={"seed": 7}))
    refused = await _refused(running.gateway, original.id, model_identifier="dall-e-3")
    assert all(violation.field.startswith("parameters.") for violation in refused.violations)
    assert refused.violations
    request = gateway_pb2.RerunGenerationRequest(id=original.id, model_identifier="flux-schnell")
    request.parameters.SetInParent()
    new_id = (await running.gateway.RerunGeneration(request, timeout=60)).id
    assert (await running.ended(new_id)).model_identifier == "flux-schnell"
    assert (await _refused(running.gateway, original.id, model_identifier="nobody")).code == "NOT_FOUND"


async def test_what_has_not_ended_is_not_rerun(running: Running) -> None:
    generation_id = await running.create("flux-schnell", simulated("long", task_seconds=60))
    refused = await _refused(running.gateway, generation_id)
    assert [(violation.field, violation.rule) for violation in refused.violations] == [("id", "ended")]
    await running.cancel(generation_id)


async def test_an_uncertain_submit_is_not_paid_a_second_time_without_consent_to_the_price(
    running: Running, simulator: Simulator
) -> None:
    prompt = _prompt(faults=LOST_REPLY)
    original = await running.ended(await running.create("flux-schnell", prompt))
    assert original.status == FAILED
    refused = await _refused(running.gateway, original.id)
    assert [(violation.field, violation.rule) for violation in refused.violations] == [(FIELD, "second_payment")]
    price_usd = refused.details["price_usd"]
    assert price_usd > 0
    assert f"${price_usd}" in refused.message
    (listed,) = refused.details["submissions"]
    assert listed["submission_id"] == original.error.details["submission_id"]
    assert len(await simulator.bills(prompt)) == 1
    too_little = await _refused(running.gateway, original.id, accepted_second_payment_usd=price_usd / 2)
    assert too_little.details["price_usd"] == price_usd
    for nonsense in (float("nan"), -1.0, float("inf")):
        refused = await _refused(running.gateway, original.id, accepted_second_payment_usd=nonsense)
        assert [violation.rule for violation in refused.violations] == ["range"]
    new_id = await _rerun(running.gateway, original.id, accepted_second_payment_usd=price_usd)
    assert (await running.ended(new_id)).status == SUCCESS
    assert len(await simulator.bills(prompt)) == 2


async def test_consent_is_asked_for_however_many_reruns_lie_between(running: Running, simulator: Simulator) -> None:
    prompt = _prompt(faults=LOST_REPLY)
    latest = await running.ended(await _create(running.gateway, prompt, "flux-pro"))
    assert latest.status == FAILED
    for bills in (2, 3, 4):
        refused = await _refused(running.gateway, latest.id)
        assert (refused.code, [violation.field for violation in refused.violations]) == ("INVALID_REQUEST", [FIELD])
        new_id = await _rerun(running.gateway, latest.id, accepted_second_payment_usd=1)
        latest = await running.ended(new_id)
        assert latest.status == SUCCESS
        assert len(await simulator.bills(prompt)) == bills


async def test_consent_is_asked_for_while_another_rerun_is_uncertain(running: Running, simulator: Simulator) -> None:
    prompt = _prompt(faults=[{"operation": "submit", "kind": "400", "times": 1}, *LOST_REPLY])
    original = await running.ended(await _create(running.gateway, prompt, "flux-pro"))
    assert (original.status, await simulator.bills(prompt)) == (FAILED, [])
    uncertain = await running.ended(await _rerun(running.gateway, original.id))
    assert uncertain.error.code == common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
    for generation_id in (original.id, uncertain.id):
        refused = await _refused(running.gateway, generation_id)
        assert [violation.field for violation in refused.violations] == [FIELD]
    assert len(await simulator.bills(prompt)) == 1
    new_id = await _rerun(running.gateway, original.id, accepted_second_payment_usd=1)
    assert (await running.ended(new_id)).status == SUCCESS


async def test_rest_and_the_client_speak_of_the_price(running: Running) -> None:
    original = await running.ended(await running.create("flux-schnell", _prompt(faults=LOST_REPLY)))
    path = f"/api/external/generation/{original.id}/rerun"
    reply = await call(running.gateway_url(), path, method="POST", key=running.admin_key, json_body={})
    assert reply.status == 400
    price_usd = reply.json["details"]["price_usd"]
    assert [violation["field"] for violation in reply.json["violations"]] == ["acceptedSecondPaymentUsd"]
    async with Client(f"127.0.0.1:{running.gateway_port()}", running.admin_key) as client:
        with pytest.raises(DarkroomError, match=FIELD) as caught:
            await client.rerun(original.id)
        assert FIELD in caught.value.fields
        new_id = await client.rerun(original.id, accepted_second_payment_usd=price_usd)
        assert (await client.wait(new_id)).rerun_of_id == original.id
    accepted = {"acceptedSecondPaymentUsd": price_usd}
    reply = await call(running.gateway_url(), path, method="POST", key=running.admin_key, json_body=accepted)
    assert reply.status == 200
    await running.ended(reply.json["id"])
    assert list((await running.get(original.id)).rerun_ids) == [reply.json["id"], new_id]
