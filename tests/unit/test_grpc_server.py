"""The gRPC server goes on whatever the paths of calls are."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from darkroom.monitor.v1 import monitor_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from libs.common.rpc.interceptors import Before, Call
from libs.common.rpc.open_streams import OpenStreams
from libs.common.rpc.server import make_server
from libs.common.rpc.sharing import Sharing
from libs.common.rpc.standard import standard
from tests.fuzz.frames import written
from tests.support.waiting import eventually


class _Open(Before):
    async def before(self, call: Call) -> None:
        """Lets everybody in."""


_EMPTY = struct.pack(">BI", 0, 0)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    sharing = Sharing.of_own(OpenStreams())
    interceptors = standard(_Open(), rpc_timeout_seconds=10, write_timeout_seconds=10, sharing=sharing)
    server = make_server(interceptors=interceptors, maximum_concurrent_rpcs=2)
    # A generated servicer of which nobody has written anything.
    service: Any = monitor_pb2_grpc.MonitorServiceServicer
    monitor_pb2_grpc.add_MonitorServiceServicer_to_server(service(), server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


async def _call(port: int, path: str) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(path)
        return bytes(await call(b"", timeout=60))


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"\xff", b"/\xed\xa0\x80/x"])
async def test_a_path_that_is_not_utf8_ends_nothing(port: int, path: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    ]  # fmt: skip
    writer.write(written(headers, _EMPTY))
    answer = b""

    async def is_unimplemented() -> bool:
        nonlocal answer
        answer += await asyncio.wait_for(reader.read(4_096), 10)
        # UNIMPLEMENTED is 12; https://grpc.io/docs/guides/status-codes/.
        return b"grpc-status\x0212" in answer

    await eventually(is_unimplemented, within=5, what="the call is answered")
    writer.close()
    assert (
        await _call(port, "/grpc.health.v1.Health/Check")
        == health_pb2.HealthCheckResponse(status=1).SerializeToString()
    )


@pytest.mark.parametrize(
    "path", ["/x", "/grpc.health.v1.Health/Nope", "/a/b", "/darkroom.monitor.v1.MonitorService/GetStats"]
)
async def test_an_unknown_method_is_unimplemented(port: int, path: str) -> None:
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(port, path)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await _call(port, "/grpc.health.v1.Health/Check")
