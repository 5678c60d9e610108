"""What many ask for at once is done once."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.preprocessing.shared import Shared


def _shared(limit_bytes: int = 10, seconds: float = 60.0) -> Shared[str, bytes]:
    return Shared("test", limit_bytes=limit_bytes, size_of=len, seconds=seconds)


class Maker:
    """Makes a value when it is let, and counts."""

    def __init__(self, value: bytes = b"12345", fault: Exception | None = None) -> None:
        self.value, self.fault, self.calls = value, fault, 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> bytes:
        self.calls += 1
        await self.may_end.wait()
        if self.fault is not None:
            raise self.fault
        return self.value


async def test_at_once_and_afterwards_it_is_made_once() -> None:
    shared, maker = _shared(), Maker()
    waiting = [asyncio.create_task(shared.get("a", maker)) for _ in range(5)]
    await asyncio.sleep(0)
    maker.may_end.set()
    assert await asyncio.gather(*waiting) == [b"12345"] * 5
    assert await shared.get("a", maker) == b"12345"
    assert maker.calls == 1


async def test_whoever_gives_up_does_not_take_it_from_the_others() -> None:
    shared, maker = _shared(), Maker()
    first, second = (asyncio.create_task(shared.get("a", maker)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    maker.may_end.set()
    assert await second == b"12345"
    assert (first.cancelled(), maker.calls) == (True, 1)


async def test_a_task_without_callers_is_cancelled_and_the_next_caller_starts_another() -> None:
    shared, maker = _shared(), Maker()
    waiting = [asyncio.create_task(shared.get("a", maker)) for _ in range(3)]
    await asyncio.sleep(0)
    under_way = [task for task in asyncio.all_tasks() if task not in waiting and task is not asyncio.current_task()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.gather(*under_way, return_exceptions=True)
    assert [task.cancelled() for task in under_way] == [True]
    maker.may_end.set()
    assert await shared.get("a", maker) == b"12345"
    assert maker.calls == 2


async def test_a_failure_is_told_to_all_who_wait_and_tried_again_by_the_next() -> None:
    shared, maker = _shared(), Maker(fault=ValueError("no"))
    maker.may_end.set()
    outcomes = await asyncio.gather(*(shared.get("a", maker) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError] * 3
    with pytest.raises(ValueError, match="no"):
        await shared.get("a", maker)
    assert maker.calls == 2


async def test_what_was_used_longest_ago_makes_room_and_what_is_too_large_is_not_kept() -> None:
    shared, makers = _shared(), {name: Maker() for name in "abc"}
    large = Maker(b"x" * 11)
    for maker in (*makers.values(), large):
        maker.may_end.set()
    for name in "abac":
        await shared.get(name, makers[name])
    await shared.get("b", makers["b"])
    assert [makers[name].calls for name in "abc"] == [1, 2, 1]
    assert [len(await shared.get("l", large)) for _ in range(2)] == [11, 11]
    assert large.calls == 2


async def test_it_is_kept_for_so_long() -> None:
    shared, maker = _shared(seconds=0.0), Maker()
    maker.may_end.set()
    await shared.get("a", maker)
    await shared.get("a", maker)
    assert maker.calls == 2


async def test_a_close_ends_what_is_under_way() -> None:
    shared, maker = _shared(), Maker()
    waiting = asyncio.create_task(shared.get("a", maker))
    await asyncio.sleep(0)
    await shared.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
