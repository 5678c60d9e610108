"""A reply that came in time is read, although the process stood still until its time was up."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from libs.common.loop_lag import LoopLag
from libs.common.patience import PatientDeadline


@pytest.fixture
async def lag() -> AsyncIterator[LoopLag]:
    found = LoopLag()
    found.start()
    yield found
    await found.stop()


async def test_a_block_that_takes_too_long_is_ended() -> None:
    with pytest.raises(TimeoutError):
        async with PatientDeadline(0.05).timeout():
            await asyncio.sleep(10)


async def test_a_block_that_ends_in_time_is_left_alone() -> None:
    async with PatientDeadline(0.2).timeout():
        await asyncio.sleep(0)
    began = _now()
    # The timer of the block is cancelled with it: nothing is ended when its time is up.
    await asyncio.sleep(0.3)
    assert _now() - began >= 0.3
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_came_while_the_process_stood_still_is_read() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    with theirs:
        async with PatientDeadline(0.2).timeout():
            waiting = asyncio.ensure_future(reader.readline())
            await asyncio.sleep(0)
            theirs.sendall(b"in time\n")
            # The event loop stands still: it reads nothing until its time is up.
            time.sleep(1.0)  # noqa: ASYNC251
            await asyncio.sleep(0.05)
            assert await waiting == b"in time\n"
        writer.close()
        await writer.wait_closed()


async def test_after_a_pause_the_block_is_ended_as_well() -> None:
    async def pause() -> None:
        async with PatientDeadline(0.05).timeout():
            time.sleep(0.7)  # noqa: ASYNC251
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        await pause()


async def test_the_time_of_a_pause_does_not_count(lag: LoopLag) -> None:
    assert LoopLag.running is lag
    began = _now()
    deadline = PatientDeadline(1.5)
    async with deadline.timeout():
        await asyncio.sleep(0.1)
        time.sleep(3.0)  # noqa: ASYNC251
        await asyncio.sleep(0)
    # Of the 1.5 s more than one is left.
    async with deadline.timeout():
        await asyncio.sleep(1.1)
    with pytest.raises(TimeoutError):
        async with deadline.timeout():
            await asyncio.sleep(10)
    assert _now() - began < 9


async def test_each_pause_is_given_back() -> None:
    deadline = PatientDeadline(0.3)
    async with deadline.timeout():
        for _ in range(2):
            time.sleep(1.0)  # noqa: ASYNC251
            await asyncio.sleep(0.6)
    with pytest.raises(TimeoutError):
        async with deadline.timeout():
            await asyncio.sleep(10)


def _now() -> float:
    return asyncio.get_running_loop().time()
