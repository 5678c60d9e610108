"""The published service configs, read by gRPC itself: what is repeated, and what is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, cast

import grpc
import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import (
    GenerationServiceServicer,
    GenerationServiceStub,
    add_GenerationServiceServicer_to_server,
)
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from google.protobuf.descriptor_pb2 import MethodOptions

from libs.common.rpc.server import make_server, server_options
from libs.common.settings import Settings
from sandbox.plan import ROOT
from tests.support.servicers import serve_log_error

PLAIN, WITH_KEYS = "service_config.json", "service_config_with_keys.json"
CREATES = {"CreateGeneration", "RerunGeneration", "CreateBatch", "UploadBatch"}
_CALLS = 250
UNAVAILABLE, LATE = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED


def _config(name: str) -> str:
    return resources.files("darkroom.gateway.v1").joinpath(name).read_text()


def _repeated(name: str) -> dict[str, set[str]]:
    """The methods that a config repeats, with the codes."""
    return {
        entry["method"]: set(policy["retryPolicy"]["retryableStatusCodes"])
        for policy in json.loads(_config(name))["methodConfig"]
        for entry in policy["name"]
    }


@pytest.mark.parametrize("name", [PLAIN, WITH_KEYS])
def test_the_copy_that_is_installed_is_the_one_beside_the_protos(name: str) -> None:
    assert _config(name) == (ROOT / "protos/darkroom/gateway/v1" / name).read_text()


def test_what_changes_nothing_is_repeated_and_no_create_without_a_key() -> None:
    services = (
        gateway_pb2.DESCRIPTOR.services_by_name["GenerationService"],
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    )
    safe = {
        method.name
        for service in services
        for method in service.methods
        if method.GetOptions().idempotency_level in {MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT}
    }
    # A cancel that is asked for twice is one.
    safe |= {"CancelGeneration", "CancelBatch"}
    assert _repeated(PLAIN) == {key: {"UNAVAILABLE"} for key in safe}
    assert _repeated(WITH_KEYS) == _repeated(PLAIN) | {key: {"UNAVAILABLE", "DEADLINE_EXCEEDED"} for key in CREATES}


@asynccontextmanager
async def _called(config: str, statuses: Sequence[grpc.StatusCode]) -> AsyncIterator[tuple[Any, list[str]]]:
    """A stub on a channel with the config, and the calls that reach a server that fails with these statuses first."""
    calls: list[str] = []

    def method(name: str, answer: Any) -> Any:
        async def serve(self: Any, request: Any, context: Any) -> Any:
            if hasattr(request, "__aiter__"):
                async for _ in request:
                    pass
            calls.append(name)
            if len(calls) <= len(statuses):
                await context.abort(statuses[len(calls) - 1], "x")
            return answer

        return serve

    methods = {
        "CreateGeneration": method("CreateGeneration", gateway_pb2.CreateGenerationResponse()),
        "UploadBatch": method("UploadBatch", gateway_pb2.UploadBatchResponse()),
        "GetGeneration": method("GetGeneration", gateway_pb2.GetGenerationResponse()),
        "ResumeBatch": method("ResumeBatch", gateway_pb2.ResumeBatchResponse()),
    }
    server = grpc.aio.server()
    servicer = cast("GenerationServiceServicer", type("Servicer", (GenerationServiceServicer,), methods)())
    add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = (("grpc.service_config", config),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield GenerationServiceStub(channel), calls
    await server.stop(None)


async def _status(stub: Any, method: str) -> grpc.StatusCode:
    async def parts() -> AsyncIterator[gateway_pb2.UploadBatchRequest]:
        yield gateway_pb2.UploadBatchRequest(idempotency_key="k")

    requests = {
        "CreateGeneration": gateway_pb2.CreateGenerationRequest(),
        "GetGeneration": gateway_pb2.GetGenerationRequest(),
        "ResumeBatch": gateway_pb2.ResumeBatchRequest(),
    }
    try:
        await getattr(stub, method)(requests.get(method) or parts(), timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("config", "method", "failure", "is_repeated"),
    [
        (PLAIN, "GetGeneration", UNAVAILABLE, True),
        (PLAIN, "GetGeneration", LATE, False),
        (PLAIN, "CreateGeneration", UNAVAILABLE, False),
        (PLAIN, "CreateGeneration", LATE, False),
        (PLAIN, "UploadBatch", UNAVAILABLE, False),
        (WITH_KEYS, "GetGeneration", UNAVAILABLE, True),
        (WITH_KEYS, "CreateGeneration", UNAVAILABLE, True),
        (WITH_KEYS, "CreateGeneration", LATE, True),
        (WITH_KEYS, "UploadBatch", UNAVAILABLE, True),
        (WITH_KEYS, "ResumeBatch", UNAVAILABLE, False),
    ],
)
async def test_grpc_repeats_what_the_config_says(
    config: str, method: str, failure: grpc.StatusCode, is_repeated: bool
) -> None:
    async with _called(_config(config), [failure]) as (stub, calls):
        status = await _status(stub, method)
    assert (status, len(calls)) == ((grpc.StatusCode.OK, 2) if is_repeated else (failure, 1))


@pytest.mark.parametrize("name", [PLAIN, WITH_KEYS])
async def test_calls_beyond_those_of_one_connection_take_another(name: str) -> None:
    peers: set[str] = set()
    all_have_begun = asyncio.Event()
    begun = 0

    async def lasting(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> monitor_pb2.LogErrorResponse:
        nonlocal begun
        begun += 1
        peers.add(context.peer())
        if begun == _CALLS:
            all_have_begun.set()
        await all_have_begun.wait()
        return monitor_pb2.LogErrorResponse()

    settings = Settings(database_url="postgresql://nowhere")
    server = make_server(maximum_concurrent_rpcs=None, options=server_options(settings, is_bounded=True))
    port = serve_log_error(server, lasting)
    await server.start()
    options = (("grpc.service_config", _config(name)), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        stub: Any = MonitorServiceStub(channel)
        await asyncio.gather(*(stub.LogError(monitor_pb2.LogErrorRequest(), timeout=60) for _ in range(_CALLS)))
    await server.stop(None)
    assert len(peers) == 3
