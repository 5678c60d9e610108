"""What is reported of an answer: that it was sent, or that its client left before, over real connections."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiohttp import web

from services.gateway.connections import Connection
from services.gateway.openai.sent import SentAnswer
from tests.support.waiting import eventually

SIZE_BYTES = 20_000_000
Reports = list[tuple[str, int]]


async def _is_reported(reported: Reports, times: int = 1) -> bool:
    return len(reported) >= times


@asynccontextmanager
async def _connected(
    reported: Reports, *, waits_seconds: float = 0, size_bytes: int = SIZE_BYTES
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server with such an answer, over which it was asked for."""

    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(waits_seconds)
        body = web.Response(body=b"x" * size_bytes, status=201, headers={"x-id": "gen_1"})
        return SentAnswer(body, lambda mark, size_bytes: reported.append((mark, size_bytes)))

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    make = partial(Connection, runner.server, loop=asyncio.get_running_loop())
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        try:
            yield reader, writer
        finally:
            writer.close()
    await runner.cleanup()


async def test_an_answer_that_is_read_was_sent() -> None:
    reported: Reports = []
    async with _connected(reported) as (reader, _):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 201 ")
        assert b"x-id: gen_1" in head
        assert reported == [], "most of it has not left"
        assert await reader.readexactly(SIZE_BYTES) == b"x" * SIZE_BYTES
        await eventually(lambda: _is_reported(reported), within=10, what="the outcome is reported")
    assert reported == [("answered_at", SIZE_BYTES)]


@pytest.mark.parametrize("reads_bytes", [0, 100_000])
async def test_an_answer_whose_client_leaves_on_the_way_was_not_sent(reads_bytes: int) -> None:
    reported: Reports = []
    async with _connected(reported) as (reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(reads_bytes)
        writer.transport.abort()
        await eventually(lambda: _is_reported(reported), within=10, what="the outcome is reported")
    assert reported == [("left_at", SIZE_BYTES)]


@pytest.mark.parametrize("size_bytes", [2_000, 500_000])
async def test_an_answer_that_breaks_off_behind_the_operating_system_was_not_received(size_bytes: int) -> None:
    reported: Reports = []
    async with _connected(reported, size_bytes=size_bytes) as (_, writer):
        await eventually(lambda: _is_reported(reported), within=10, what="it is sent")
        assert reported == [("answered_at", size_bytes)]
        # The connection is reset when it is closed.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        await eventually(lambda: _is_reported(reported, 2), within=10, what="the reset is reported")
    assert reported[1] == ("left_at", size_bytes)


async def test_an_answer_after_which_the_client_goes_on_was_received() -> None:
    reported: Reports = []
    async with _connected(reported, size_bytes=2_000) as (reader, writer):
        for number in (1, 2):
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2_000)
            if number == 1:
                writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await eventually(lambda: _is_reported(reported, 2), within=10, what="both are sent")
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.1)
    assert reported == [("answered_at", 2_000)] * 2


async def test_an_answer_whose_client_leaves_before_was_not_sent() -> None:
    reported: Reports = []
    async with _connected(reported, waits_seconds=0.3) as (_, writer):
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()
        await eventually(lambda: _is_reported(reported), within=10, what="the outcome is reported")
    assert reported == [("left_at", SIZE_BYTES)]
