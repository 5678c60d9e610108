"""What every service offers: reflection, health, metrics, honest refusals, a graceful end."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from libs.common.settings import ServiceName
from sandbox.plan import SERVICES
from tests.conftest import StartStack, quick
from tests.support.closing import cancelling
from tests.support.running import SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually, promptly

FULL_NAMES: dict[ServiceName, str] = {
    "gateway": "darkroom.gateway.v1.GenerationService",
    "dispatcher": "darkroom.dispatcher.v1.DispatcherService",
    "poller": "darkroom.poller.v1.PollingService",
    "monitor": "darkroom.monitor.v1.MonitorService",
    "experiments": "darkroom.experiments.v1.ExperimentService",
}


V1, V1_ALPHA = "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"


async def _asked(channel: grpc.aio.Channel, service: str, **question: str) -> Any:
    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(**cast("Any", question))

    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(questions())
    with cancelling(call):
        return await call.read()


async def _reflected(channel: grpc.aio.Channel, service: str) -> set[str]:
    answer = await _asked(channel, service, list_services="")
    return {service.name for service in answer.list_services_response.service}


async def test_reflection_describes_itself_and_the_details_of_errors(running: Running) -> None:
    for service in (V1, V1_ALPHA):
        for symbol in (V1, "grpc.reflection.v1.ServerReflectionRequest", V1_ALPHA, "google.rpc.ErrorInfo"):
            answer = await _asked(running.channel_of(""), service, file_containing_symbol=symbol)
            described = [
                FileDescriptorProto.FromString(found) for found in answer.file_descriptor_response.file_descriptor_proto
            ]
            assert symbol.rpartition(".")[0] in {file.package for file in described}, answer


async def test_reflection_can_be_turned_off(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_GRPC_REFLECTION": "false"})
    for service in (V1, V1_ALPHA):
        # A stream's message may be sent after the refusal, of which gRPC's client then says INTERNAL.
        ask: Any = running.channel_of("").unary_unary(f"/{service}/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert running.health("gateway") == "SERVING"


async def test_health_lists_all_that_it_answers_for(running: Running) -> None:
    ask: Any = running.channel_of("").unary_unary("/grpc.health.v1.Health/List")
    listed = vars(health_pb2)["HealthListResponse"].FromString(await ask(b"", timeout=5))
    assert {"", "liveness", FULL_NAMES["gateway"]} <= set(listed.statuses)
    assert {status.status for status in listed.statuses.values()} == {health_pb2.HealthCheckResponse.SERVING}


@pytest.mark.parametrize("key", ["", "admin"])
@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Nothing", "/darkroom.gateway.v1.GenerationService/Nothing"])
async def test_an_unknown_method_is_unimplemented(running: Running, key: str, method: str) -> None:
    call: Any = running.channel_of("").unary_unary(method)
    metadata = (("x-api-key", running.admin_key),) if key else ()
    before = await running.metric("gateway", "darkroom_errors_reported_total")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"", metadata=metadata, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await running.metric("gateway", "darkroom_errors_reported_total") == before


async def test_all_five_services_answer_for_themselves(start_stack: StartStack) -> None:
    running = await start_stack(services=SERVICES)
    for service in SERVICES:
        beside = {"darkroom.gateway.v1.AdminService"} if service == "gateway" else set()
        for version in (V1, V1_ALPHA):
            found = await _reflected(running.channel(service), version)
            assert found == beside | {FULL_NAMES[service], "grpc.health.v1.Health", V1, V1_ALPHA}
        for name in ("", "liveness", FULL_NAMES[service]):
            assert running.health(service, name) == "SERVING", (service, name)
        assert await _watched_health(running, service) == "SERVING"
        assert await running.metric(service, "darkroom_ready") == 1
        assert await running.metric(service, "darkroom_build_info", service=service) == 1


async def _watched_health(running: Running, service: ServiceName) -> str:
    """What a stream of a service's health begins with. It needs no key."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.stack.plan.ports.grpc[service]}") as channel:
        stream: Any = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest())
        with cancelling(stream):
            answer = await asyncio.wait_for(stream.read(), 5)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def test_readiness_follows_the_database_and_liveness_does_not(start_stack: StartStack) -> None:
    running = await start_stack(services=SERVICES, own_postgres=True)
    assert running.stack.postgres is not None

    async def everywhere(status: str) -> bool:
        answers = await asyncio.gather(*(asyncio.to_thread(running.health, service) for service in SERVICES))
        return set(answers) == {status}

    await asyncio.to_thread(running.stack.postgres.stop)
    await eventually(lambda: everywhere("NOT_SERVING"), within=10, what="all services are not ready")
    assert {running.health(service, "liveness") for service in SERVICES} == {"SERVING"}

    await asyncio.to_thread(running.stack.postgres.start)
    await eventually(lambda: everywhere("SERVING"), within=10, what="all services are ready again")
    generation = await running.ended(await running.create("flux-pro", simulated("after", task_seconds=0)))
    assert generation.status == SUCCESS


async def test_a_request_while_the_database_is_away_is_told_to_come_again(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), own_postgres=True)
    assert running.stack.postgres is not None
    await asyncio.to_thread(running.stack.postgres.stop)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.create("flux-pro", "x")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_signal_drains_and_ends_with_zero(start_stack: StartStack, simulator: Simulator) -> None:
    running = await start_stack()
    prompt = simulated("under way", task_seconds=1.5)
    generation_id = await running.create("gpt-image-1", prompt)

    async def billed() -> bool:
        return len(await simulator.bills(prompt)) == 1

    await eventually(billed, within=5, what="the submit is under way")
    running.stack.children["dispatcher"].send(signal.SIGTERM)

    async def not_ready() -> bool:
        return await asyncio.to_thread(running.health, "dispatcher") == "NOT_SERVING"

    await promptly(not_ready, within=2, what="the dispatcher tells that it goes")
    assert running.health("dispatcher", "liveness") == "SERVING"
    assert await asyncio.to_thread(running.stack.children["dispatcher"].wait, 20) == 0
    generation = await running.get(generation_id)
    assert (generation.status, generation.attempts) == (SUCCESS, 1)
    for service in ("gateway", "poller"):
        assert await asyncio.to_thread(running.stack.children[service].stop, 20) == 0


async def test_logs_are_json_and_follow_the_request_through_the_services(start_stack: StartStack) -> None:
    running = await start_stack()
    generation = await running.ended(await running.create("flux-pro", simulated("x", task_seconds=0)))
    for service in ("gateway", "dispatcher", "poller"):
        lines = [json.loads(line) for line in running.log(service).splitlines()]
        about = [line for line in lines if line.get("context", {}).get("generation_id") == generation.id]
        assert {line["context"]["request_id"] for line in about} == {generation.request_id}, service
        assert {line["source"] for line in about} == {service}


async def test_a_bad_catalog_is_refused_at_work_and_a_good_one_taken(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",))
    path = Path(running.stack.environment["DARKROOM_CATALOG"])
    good = path.read_text()

    path.write_text("models: {")
    running.stack.children["gateway"].send(signal.SIGHUP)

    async def refused() -> bool:
        return await running.metric("gateway", "darkroom_catalog_reloads_total", outcome="refused") >= 1

    await eventually(refused, within=5, what="the bad catalog is refused")
    assert await running.create("flux-pro", "still here")

    path.write_text(good.replace("flux-pro:", "flux-renamed:"))

    async def taken() -> bool:
        return await running.metric("gateway", "darkroom_catalog_reloads_total", outcome="replaced") >= 1

    await eventually(taken, within=5, what="the good catalog is taken")
    assert await running.create("flux-renamed", "new")


async def test_a_model_that_only_the_gateway_knows_yet_waits_for_the_dispatchers_catalog(
    start_stack: StartStack,
) -> None:
    def without_flux_pro(catalog: dict[str, Any]) -> None:
        quick(catalog)
        del catalog["models"]["flux-pro"]

    newer = await start_stack(services=("gateway",))
    generation_id = await newer.create("flux-pro", simulated("new model", task_seconds=0))
    older = await start_stack(services=("dispatcher", "poller"), adjust=without_flux_pro)

    async def put_back() -> bool:
        return await older.metric("dispatcher", "darkroom_claimed_total", kind="generation") > 0

    await eventually(put_back, within=10, what="the dispatcher has looked at it")
    assert (await newer.get(generation_id)).attempts == 0
    catalog = Path(newer.stack.environment["DARKROOM_CATALOG"]).read_text()
    Path(older.stack.environment["DARKROOM_CATALOG"]).write_text(catalog)

    assert (await newer.ended(generation_id)).status == SUCCESS


LOOPS: dict[ServiceName, tuple[str, ...]] = {
    "dispatcher": ("claim", "rescue", "renew", "batches", "circuits"),
    "poller": ("poll", "store", "late", "callbacks", "renew_tasks", "renew_results"),
}


async def test_loops_without_work_wait_for_their_intervals(start_stack: StartStack) -> None:
    running = await start_stack()

    async def iterations(service: ServiceName, loop: str) -> float:
        return await running.metric(service, "darkroom_loop_iterations_total", loop=loop)

    async def all_iterations() -> dict[str, float]:
        return {
            f"{service} {loop}": await iterations(service, loop) for service, loops in LOOPS.items() for loop in loops
        }

    before = await all_iterations()

    async def some_time_has_passed() -> bool:
        return await iterations("poller", "late") >= before["poller late"] + 5

    await eventually(some_time_has_passed, within=20, what="five intervals of a loop")
    after = await all_iterations()
    assert {name: after[name] - count for name, count in before.items() if after[name] - count > 50} == {}
