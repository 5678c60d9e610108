"""What an address may send over HTTP before its requests are authenticated: beyond that it waits, and loses nothing."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from tests.support.http import call
from tests.support.running import Running

_PIECE = b"10000\r\n" + bytes(64 * 1024) + b"\r\n"
_POST = b"POST /api/webhooks/replicate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"

_HEALTH = b"GET /api/health HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"


async def _connect(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", running.stack.plan.ports.gateway_http)


async def _answered(running: Running, head: bytes, pieces: int, *, ends: bool = False) -> tuple[bytes, float]:
    """The status line of the answer to a body of so many pieces of 64 KiB, and the seconds that it took."""
    began = monotonic()
    reader, writer = await _connect(running)
    writer.write(head + b"\r\n" + _PIECE * pieces + b"0\r\n\r\n")
    if ends:
        writer.write_eof()
    async with asyncio.timeout(20):
        status = await reader.readline()
    writer.close()
    return status, monotonic() - began


@pytest.fixture
async def spent(running: Running) -> Running:
    """An address that has sent more than it may at once."""
    answers = await asyncio.gather(*(_answered(running, _POST, 14) for _ in range(3)))
    assert {status.split()[1] for status, _ in answers} <= {b"400", b"401"}
    return running


async def test_who_has_no_key_waits_and_is_answered(spent: Running) -> None:
    status, seconds = await _answered(spent, _POST, 8)
    assert status.split()[1] in {b"400", b"401"}
    assert seconds > 0.3


async def test_who_ends_the_request_early_is_answered_or_closed(spent: Running) -> None:
    reader, writer = await _connect(spent)
    writer.write(_POST + b"\r\n" + _PIECE)
    writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read(-1)
    writer.close()
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    # The connection did not stay behind.
    assert reader.at_eof()


async def test_who_has_a_key_does_not_wait_for_long(running: Running) -> None:
    key = (await running.new_key("large")).key.encode()
    head = _POST.replace(b"/api/webhooks/replicate", b"/api/external/generation") + b"x-api-key: " + key + b"\r\n"
    head += b"content-type: application/json\r\n"
    answers = [await _answered(running, head, 150) for _ in range(3)]
    assert {status.split()[1] for status, _ in answers} == {b"400"}
    # 30 MB: without a key a minute.
    assert sum(seconds for _, seconds in answers) < 15


async def test_small_requests_do_not_wait_for_large_ones_of_their_address(spent: Running) -> None:
    large = [asyncio.create_task(_answered(spent, _POST, 28)) for _ in range(4)]
    await asyncio.sleep(0.5)
    key = (await spent.new_key("small")).key
    health = await _answered(spent, _HEALTH, 0)
    listed = await call(spent.gateway_url(), "/api/external/models", key=key)
    assert not all(task.done() for task in large)
    assert (health[0].split()[1], listed.status) == (b"200", 200)
    assert health[1] < 1
    await asyncio.gather(*large, return_exceptions=True)


async def test_many_requests_in_one_piece_do_not_keep_others_of_their_address_waiting_for_long(
    running: Running,
) -> None:
    reader, writer = await _connect(running)
    writer.write(b"GET /nope HTTP/1.1\r\nhost: x\r\n\r\n" * 10_000)
    for _ in range(3_000):
        await reader.readuntil(b"HTTP/1.1 404 ")
    status, seconds = await _answered(running, _HEALTH, 0)
    assert status.split()[1] == b"200"
    # The largest debt is worth four; without a limit it would be twenty.
    assert seconds < 12
    writer.close()
