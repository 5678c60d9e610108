"""A request that is sent again makes nothing twice, and a result that is there may be taken again."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from google.protobuf.struct_pb2 import Struct

from libs.common.database.engine import Database
from libs.common.errors import GenerationError
from libs.common.rpc.errors import from_rpc_error
from tests.conftest import StartStack
from tests.support.http import call
from tests.support.rows import execute, rows
from tests.support.running import SUCCESS, Running
from tests.support.simulator import Simulator, simulated


def _request(prompt: str = "x", parameters: dict[str, Any] | None = None, **fields: Any) -> Any:
    given = Struct()
    given.update(parameters or {})
    return gateway_pb2.CreateGenerationRequest(
        **{"model_identifier": "flux-pro", "prompt": prompt, "parameters": given, **fields}
    )


async def test_two_different_keys_of_one_call_are_refused(running: Running) -> None:
    reply = await call(
        running.gateway_url(),
        "/api/external/generation",
        method="POST",
        key=running.admin_key,
        json_body={"modelIdentifier": "flux-pro", "prompt": "x", "idempotencyKey": "one"},
        headers={"idempotency-key": "other"},
    )
    assert reply.status == 400
    assert "idempotency" in reply.body.decode()


async def test_a_hundred_duplicates_at_once_are_one_row_and_one_bill(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    running = await start_stack()
    replica = await running.stack_replica("gateway")
    made = await running.new_key("acme")
    stubs = [GenerationServiceStub(running.channel_of(made.key, replica=name)) for name in ("gateway", replica)]
    for stub in stubs:
        await stub.ListModels(gateway_pb2.ListModelsRequest(), timeout=60, wait_for_ready=True)
    request = _request(simulated("a hundred times", task_seconds=0.1), idempotency_key="once")
    answers = await asyncio.gather(*(stubs[n % 2].CreateGeneration(request, timeout=30) for n in range(100)))
    (generation_id,) = {answer.id for answer in answers}
    assert sum(not answer.is_repeat for answer in answers) == 1
    assert (await running.ended(generation_id)).status == SUCCESS
    (row,) = await rows(database, "SELECT count(*) AS count FROM generation_requests")
    assert row["count"] == 1
    assert len(await simulator.bills(request.prompt)) == 1


async def _refusal(running: Running, request: Any) -> GenerationError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.gateway.CreateGeneration(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    return from_rpc_error(caught.value)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"prompt": "another"}, ["prompt"]),
        ({"parameters": {"seed": 2}}, ["parameters.seed"]),
        ({"parameters": {"seed": 1, "output_format": "png"}}, ["parameters.output_format"]),
        ({"labels": {"team": "red"}, "priority": 3}, ["labels.team", "priority"]),
        ({"model_identifier": "flux-dev"}, ["model_identifier"]),
    ],
)
async def test_another_body_under_the_same_key_is_told_by_its_fields(
    running: Running, changes: dict[str, Any], fields: list[str]
) -> None:
    key = f"body {fields}"
    first: dict[str, Any] = {"prompt": "x", "parameters": {"seed": 1}, "idempotency_key": key}
    generation_id = (await running.gateway.CreateGeneration(_request(**first), timeout=60)).id
    error = await _refusal(running, _request(**{**first, **changes}))
    assert [violation.field for violation in error.violations] == fields
    assert error.details == {"fields": fields, "generation_id": generation_id}
    again = await running.gateway.CreateGeneration(_request(**first), timeout=60)
    assert (again.id, again.is_repeat) == (generation_id, True)


async def test_in_one_group_the_first_wins_and_its_neighbours_are_not_harmed(running: Running) -> None:
    async def send(prompt: str, key: str) -> str:
        request = _request(prompt, idempotency_key=key)
        try:
            return (await running.gateway.CreateGeneration(request, timeout=60)).id
        except grpc.aio.AioRpcError as error:
            return error.code().name

    answers = await asyncio.gather(
        *(send(f"prompt {n % 3}", "group") for n in range(30)), *(send(f"other {n}", f"group {n}") for n in range(10))
    )
    ids = {answer for answer in answers[:30] if answer.startswith("gen_")}
    assert len(ids) == 1
    assert answers[:30].count("ALREADY_EXISTS") == 20
    assert len({answer for answer in answers[30:] if answer.startswith("gen_")}) == 10


async def test_a_key_is_its_owners_own_and_free_again_after_a_day(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",))
    acme, other = await running.client("acme"), await running.client("other")
    request = _request(idempotency_key="mine")
    first, second = await acme.CreateGeneration(request), await other.CreateGeneration(request)
    assert first.id != second.id
    await execute(database, "UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    third = await acme.CreateGeneration(request)
    assert (third.id != first.id, third.is_repeat) == (True, False)
    assert (await acme.CreateGeneration(request)).id == third.id


async def test_the_key_may_come_as_a_header(running: Running) -> None:
    body = {"modelIdentifier": "flux-pro", "prompt": "header"}
    ids = {
        (
            await call(
                running.gateway_url(), "/api/external/generation", method="POST", key=running.admin_key,
                json_body=body, headers={"Idempotency-Key": "by header"},
            )
        ).json["id"]
        for _ in range(2)
    }  # fmt: skip
    assert len(ids) == 1
    answer = await running.gateway.CreateGeneration(
        _request("header", idempotency_key="by header", parameters={}), timeout=60
    )
    assert answer.is_repeat


@pytest.mark.parametrize(
    ("path", "name"), [("/api/external/generation", "modelIdentifier"), ("/v1/images/generations", "model")]
)
async def test_a_key_that_cannot_be_carried_is_refused_and_not_left_out(running: Running, path: str, name: str) -> None:
    body = {name: "flux-pro", "prompt": "x"}
    for key in ("k\u00e9y", "k" * 201):
        reply = await call(
            running.gateway_url(), path, method="POST", key=running.admin_key, json_body=body,
            headers={"Idempotency-Key": key},
        )  # fmt: skip
        assert (reply.status, b"Idempotency-Key" in reply.body) == (400, True)


async def test_an_identical_request_takes_the_earlier_result_without_a_bill(
    running: Running, simulator: Simulator
) -> None:
    prompt = simulated("reuse me", task_seconds=0.1)
    first = (await running.gateway.CreateGeneration(_request(prompt, {"seed": 7}))).id
    made = await running.ended(first)

    async def again(parameters: dict[str, Any], **fields: Any) -> gateway_pb2.CreateGenerationResponse:
        return await running.gateway.CreateGeneration(
            _request(prompt, parameters, reuse_within_seconds=600, labels={"second": "yes"}, **fields)
        )

    reused = await again({"seed": 7})
    assert (reused.status, reused.reused_from_id) == (SUCCESS, first)
    shown = await running.get(reused.id)
    assert (shown.status, shown.cost_usd, shown.reused_from_id) == (SUCCESS, 0.0, first)
    assert shown.results[0].sha256 == made.results[0].sha256
    assert dict(shown.labels) == {"second": "yes"}
    assert len(await simulator.bills(prompt)) == 1

    other = await again({"seed": 8})
    assert (other.reused_from_id, other.status) == ("", gateway_pb2.GENERATION_STATUS_PENDING)
    await running.ended(other.id)
    foreign = await running.client("somebody else")
    theirs = await foreign.CreateGeneration(_request(prompt, {"seed": 7}, reuse_within_seconds=600))
    assert theirs.reused_from_id == ""
    await running.ended(theirs.id)
    assert len(await simulator.bills(prompt)) == 3
