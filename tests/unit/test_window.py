"""What a process has claimed: bounded in each lane, and left in good order."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from libs.common.database.records import Lease
from services.poller.places import Places
from services.poller.window import Window


async def test_at_a_stop_what_runs_may_end_and_what_waits_never_begins() -> None:
    window = Window()
    begun: list[str] = []
    ended: list[str] = []
    go_on = asyncio.Event()

    async def work(name: str) -> str:
        begun.append(name)
        await go_on.wait()
        return name

    async def finish(name: str) -> None:
        ended.append(name)

    assert window.room("lane", 2) == 8
    for name in ("a", "b", "c", "d"):
        window.begin("lane", Lease(name, 1), partial(work, name), finish)
    await asyncio.sleep(0)
    assert begun == ["a", "b"]

    assert window.stop() == [Lease("c", 1), Lease("d", 1)]
    go_on.set()
    await window.drain(5)
    assert (begun, ended, len(window)) == (["a", "b"], ["a", "b"], 0)


async def test_work_that_fails_gives_its_place_to_the_next() -> None:
    window = Window()
    ended: list[str] = []

    async def fail() -> str:
        raise ValueError("broken")

    async def work() -> str:
        return "done"

    async def finish(found: str) -> None:
        ended.append(found)

    window.room("lane", 1)
    window.begin("lane", Lease("a", 1), fail, finish)
    window.begin("lane", Lease("b", 1), work, finish)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (ended, len(window)) == (["done"], 0)


async def test_lanes_do_not_wait_for_each_other() -> None:
    window = Window()
    ended: list[str] = []
    never = asyncio.Event()

    async def hang() -> str:
        await never.wait()
        return "never"

    async def work() -> str:
        return "done"

    async def finish(found: str) -> None:
        ended.append(found)

    for lane in ("slow", "fast"):
        window.room(lane, 1)
    for number in range(4):
        window.begin("slow", Lease(f"slow-{number}", 1), hang, finish)
    window.begin("fast", Lease("fast", 1), work, finish)
    for _ in range(5):
        await asyncio.sleep(0)
    assert ended == ["done"]
    await window.drain(0.01)


class _Crowd:
    """Counts how many pieces of work run at once, and lets them end one by one."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.peak = 0
        self._ends: dict[str, asyncio.Event] = {}

    async def work(self, name: str) -> str:
        self.running.append(name)
        self.peak = max(self.peak, len(self.running))
        self._ends[name] = asyncio.Event()
        await self._ends[name].wait()
        self.running.remove(name)
        return name

    async def finish(self, name: str) -> None:
        """Nothing is to be written."""

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await _settled()


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def _crowded(window: Window, count: int, concurrency: int) -> _Crowd:
    crowd = _Crowd()
    window.room("lane", concurrency)
    for number in range(count):
        window.begin("lane", Lease(f"{number}", 1), partial(crowd.work, f"{number}"), crowd.finish)
    await _settled()
    return crowd


@pytest.mark.parametrize("changed", [1, 2, 4])
async def test_limit_that_changes_is_never_exceeded_by_work_of_before_and_after(changed: int) -> None:
    window = Window()
    crowd = await _crowded(window, 6, 3)
    assert len(crowd.running) == 3
    window.room("lane", changed)
    for number in range(6, 8):
        window.begin("lane", Lease(f"{number}", 1), partial(crowd.work, f"{number}"), crowd.finish)
    await _settled()
    assert crowd.peak == max(3, changed)
    ended: list[str] = []
    while crowd.running:
        ended.append(crowd.running[0])
        await crowd.end(ended[-1])
        # Those above a smaller limit leave first.
        assert len(crowd.running) == min(8 - len(ended), max(changed, 3 - len(ended)))
    assert ended == [str(number) for number in range(8)]


async def test_place_of_work_that_is_cut_off_goes_to_the_next() -> None:
    places = Places(1)
    order: list[str] = []

    async def take(name: str) -> None:
        async with places:
            order.append(name)

    async with places:
        first, second = asyncio.create_task(take("first")), asyncio.create_task(take("second"))
        await _settled()
    # The place is given to the first in this moment; it is cut off before it runs.
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert order == ["second"]


async def test_claims_are_held_until_their_work_has_ended_and_while_a_report_is_written() -> None:
    window = Window()
    crowd = await _crowded(window, 2, 1)
    first, second, report = Lease("0", 1), Lease("1", 1), Lease("report", 7)
    with window.holding(report):
        assert window.held() == [first, second, report]
        await crowd.end("0")
        assert window.held() == [second, report]
    await crowd.end("1")
    assert window.held() == []
