"""Calls that no gRPC client would make: none of them costs others anything, or leaves an error behind."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2

from tests.fuzz.frames import written
from tests.support.running import Running


async def _errors(running: Running) -> float:
    return await running.metric("gateway", "darkroom_log_lines_total", level="error")


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"/darkroom.gateway.v1.GenerationService/\xff", b"\xed\xa0\x80"])
async def test_a_path_that_is_not_utf8_does_not_end_the_server(running: Running, path: bytes) -> None:
    before = await _errors(running)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.gateway_port())
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    writer.write(written([*headers, (b"content-type", b"application/grpc"), (b"te", b"trailers")], bytes(5)))
    async with asyncio.timeout(20):
        answer = b""
        while b"grpc-status" not in answer:
            answer += await reader.read(4_096)
            assert not reader.at_eof()
    writer.close()
    assert (await running.gateway.ListModels(gateway_pb2.ListModelsRequest(), timeout=60)).models
    assert await _errors(running) == before


@pytest.mark.parametrize("path", ["/grpc.health.v1.Health/Nope", "/a/b", "/darkroom.gateway.v1.GenerationService/Nope"])
async def test_what_is_not_implemented_is_told_so(running: Running, path: str) -> None:
    before = await _errors(running)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{running.gateway_port()}") as channel:
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", metadata=[("x-api-key", running.admin_key)], timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await _errors(running) == before
