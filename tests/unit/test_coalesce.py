from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from libs.common.coalesce import Closed, GroupWriter
from libs.common.errors import ErrorCode, GenerationError


class Recorder:
    """A flush that keeps its groups, may be held up, and refuses odd-looking items."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def flush(self, items: Sequence[int]) -> list[int]:
        await self.gate.wait()
        self.groups.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError(f"refused: {items}")
        return [item * 10 for item in items]


async def test_a_lone_item_is_written_at_once() -> None:
    recorder = Recorder()
    writer = GroupWriter("test", recorder.flush)
    assert await writer.write(4) == 40
    await writer.close()


async def test_what_comes_while_a_group_is_written_shares_the_next() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    writer = GroupWriter("test", recorder.flush)
    first = asyncio.create_task(writer.write(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [asyncio.create_task(writer.write(item)) for item in range(2, 102)]
    await asyncio.sleep(0)
    recorder.gate.set()

    answers = await asyncio.gather(first, *rest)

    assert answers == [item * 10 for item in range(1, 102)]
    assert len(recorder.groups) == 2
    await writer.close()


async def test_a_group_is_bounded() -> None:
    recorder = Recorder()
    writer = GroupWriter("test", recorder.flush, limit=30, linger_seconds=0.01)
    await asyncio.gather(*(writer.write(item) for item in range(100)))
    assert [len(group) for group in recorder.groups] == [30, 30, 30, 10]
    await writer.close()


async def test_a_bad_item_harms_no_other() -> None:
    recorder = Recorder()
    writer = GroupWriter("test", recorder.flush, linger_seconds=0.01)

    answers = await asyncio.gather(*(writer.write(item) for item in (1, -2, 3)), return_exceptions=True)

    assert answers[0] == 10
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 30
    await writer.close()


async def test_a_database_that_is_away_is_told_to_everybody_at_once() -> None:
    calls = []

    async def flush(items: Sequence[int]) -> list[int]:
        calls.append(items)
        raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "away")

    writer = GroupWriter("test", flush, linger_seconds=0.01)
    answers = await asyncio.gather(*(writer.write(item) for item in range(5)), return_exceptions=True)

    assert all(isinstance(answer, GenerationError) for answer in answers)
    assert len(calls) == 1
    await writer.close()


async def test_a_caller_that_gives_up_does_not_take_its_item_back() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    writer = GroupWriter("test", recorder.flush)
    impatient = asyncio.create_task(writer.write(7))
    await asyncio.sleep(0)
    impatient.cancel()
    recorder.gate.set()
    await writer.close()
    assert recorder.groups == [[7]]


async def test_closing_writes_what_was_handed_in_and_takes_nothing_more() -> None:
    recorder = Recorder()
    writer = GroupWriter("test", recorder.flush, linger_seconds=0.01)
    waiting = asyncio.create_task(writer.write(1))
    await asyncio.sleep(0)
    await writer.close()
    assert await waiting == 10
    with pytest.raises(Closed):
        await writer.write(2)


async def test_a_group_waits_for_those_that_are_under_way_and_for_no_others() -> None:
    recorder = Recorder()
    under_way = 3
    writer = GroupWriter("test", recorder.flush, linger_seconds=3_600, expected=lambda: under_way)
    first = [asyncio.create_task(writer.write(item)) for item in (1, 2)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(writer.write(3), 5) == 30
    assert await asyncio.gather(*first) == [10, 20]
    assert recorder.groups == [[1, 2, 3]]
    under_way = 1
    assert await asyncio.wait_for(writer.write(4), 5) == 40
    await writer.close()
