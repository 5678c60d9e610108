from __future__ import annotations

import asyncio

import pytest

from libs.common import loops
from libs.common.loops import Loop
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def _no_pause_after_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "FAILURE_PAUSE_SECONDS", 0.0)


async def test_a_turn_that_found_more_is_followed_by_another_at_once() -> None:
    turns = []

    async def turn() -> bool:
        turns.append(1)
        return len(turns) < 3

    loop = Loop("test", turn, interval_seconds=3_600)
    loop.start()

    async def three() -> bool:
        return len(turns) == 3

    await eventually(three, within=5, what="three turns")
    await loop.stop()
    assert len(turns) == 3


async def test_a_wake_cuts_the_pause_short() -> None:
    turned = asyncio.Event()

    async def turn() -> bool:
        turned.set()
        return False

    loop = Loop("test", turn, interval_seconds=3_600)
    loop.start()
    await asyncio.wait_for(turned.wait(), 5)
    turned.clear()
    loop.wake()
    assert await asyncio.wait_for(turned.wait(), 5)
    await loop.stop()


async def test_a_wake_during_a_turn_is_not_lost() -> None:
    turns: asyncio.Queue[int] = asyncio.Queue()
    inside, leave = asyncio.Event(), asyncio.Event()

    async def turn() -> bool:
        inside.set()
        await leave.wait()
        turns.put_nowait(1)
        return False

    loop = Loop("test", turn, interval_seconds=3_600)
    loop.start()
    await asyncio.wait_for(inside.wait(), 5)
    loop.wake()
    leave.set()
    assert [await asyncio.wait_for(turns.get(), 5) for _ in range(2)] == [1, 1]
    await loop.stop()


async def test_a_failing_turn_does_not_end_the_loop() -> None:
    turns = []

    async def turn() -> bool:
        turns.append(1)
        if len(turns) < 3:
            raise RuntimeError("a bad turn")
        return False

    loop = Loop("test", turn, interval_seconds=0.001)
    loop.start()

    async def through() -> bool:
        return len(turns) > 3

    await eventually(through, within=5, what="the loop outlives two failures")
    assert await loop.fault() is None
    await loop.stop()


async def test_a_loop_that_never_gets_through_is_at_fault() -> None:
    async def turn() -> bool:
        raise RuntimeError("always")

    loop = Loop("test", turn, interval_seconds=0.001, stall_seconds=0.05)
    loop.start()
    fault = await eventually(loop.fault, within=5, what="the loop is stuck")
    assert fault is not None
    assert "test" in fault
    await loop.stop()


async def test_stopping_lets_the_present_turn_end() -> None:
    inside, leave, ended = asyncio.Event(), asyncio.Event(), []

    async def turn() -> bool:
        inside.set()
        await leave.wait()
        ended.append(1)
        return False

    loop = Loop("test", turn, interval_seconds=3_600)
    loop.start()
    await asyncio.wait_for(inside.wait(), 5)
    stopping = asyncio.create_task(loop.stop())
    leave.set()
    await stopping
    assert ended == [1]
