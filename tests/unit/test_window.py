"""What a process has claimed: bounded in each lane, and left in good order."""

from __future__ import annotations

import asyncio
from functools import partial

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
        window.begin("lane", name, partial(work, name), finish)
    await asyncio.sleep(0)
    assert begun == ["a", "b"]

    assert window.stop() == ["a", "b"]
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
    window.begin("lane", "a", fail, finish)
    window.begin("lane", "b", work, finish)
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
        window.begin("slow", f"slow-{number}", hang, finish)
    window.begin("fast", "fast", work, finish)
    for _ in range(5):
        await asyncio.sleep(0)
    assert ended == ["done"]
    await window.drain(0.01)
