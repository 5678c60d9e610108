"""How calls are accepted: all that came before a stop, no more at once than allowed, and none of unknown methods."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import sleep
from typing import Any

import grpc
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.rpc.server import make_server
from tests.support.servicers import serve_log_error
from tests.support.waiting import eventually

_REQUEST = monitor_pb2.LogErrorRequest()


@asynccontextmanager
async def _served(behaviour: Any, *, maximum: int | None = None) -> AsyncIterator[tuple[grpc.aio.Server, Any]]:
    """A server of one method with this behaviour, and a stub of it."""
    server = make_server(maximum_concurrent_rpcs=maximum)
    port = serve_log_error(server, behaviour)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", (("grpc.enable_retries", 0),)) as channel:
            yield server, channel
    finally:
        await server.stop(None)


async def _statuses(calls: list[asyncio.Task[Any]]) -> Counter[str]:
    found = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(one.code().name if isinstance(one, grpc.aio.AioRpcError) else "OK" for one in found)


async def test_a_server_that_stops_answers_all_calls_that_have_come() -> None:
    async def busy(request: Any, context: Any) -> monitor_pb2.LogErrorResponse:
        del request, context
        # It keeps the loop, so that calls wait to be accepted.
        sleep(0.001)  # noqa: ASYNC251
        return monitor_pb2.LogErrorResponse()

    async with _served(busy) as (server, channel):
        stub = MonitorServiceStub(channel)
        await stub.LogError(_REQUEST)
        calls = [asyncio.ensure_future(_called(stub)) for _ in range(300)]
        await asyncio.sleep(0.1)
        await server.stop(10)
        assert await _statuses(calls) == {"OK": 300}


async def _called(stub: Any) -> Any:
    return await stub.LogError(_REQUEST, timeout=60)


async def test_calls_beyond_the_limit_are_refused_and_those_within_it_answered() -> None:
    released = asyncio.Event()

    async def waiting(request: Any, context: Any) -> monitor_pb2.LogErrorResponse:
        del request, context
        await released.wait()
        return monitor_pb2.LogErrorResponse()

    async with _served(waiting, maximum=5) as (_, channel):
        stub = MonitorServiceStub(channel)
        calls = [asyncio.ensure_future(_called(stub)) for _ in range(20)]

        async def all_refused() -> bool:
            return sum(call.done() for call in calls) == 15

        await eventually(all_refused, within=10, what="those beyond the limit are refused")
        released.set()
        assert await _statuses(calls) == {"OK": 5, "RESOURCE_EXHAUSTED": 15}
        assert await _called(stub) == monitor_pb2.LogErrorResponse()


async def test_unknown_methods_are_unimplemented() -> None:
    async with _served(None) as (_, channel):
        calls = [asyncio.ensure_future(_unknown(channel, f"/a.B/C{number}")) for number in range(200)]
        assert await _statuses(calls) == {"UNIMPLEMENTED": 200}


async def _unknown(channel: grpc.aio.Channel, path: str) -> Any:
    make: Any = channel.unary_unary(path)
    return await make(b"", timeout=60)
