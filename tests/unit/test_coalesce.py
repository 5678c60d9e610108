from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from libs.common.coalesce import Closed, GroupWriter
from libs.common.errors import ErrorCode, GenerationError, OutcomeUnknown, StatementEnded


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


@pytest.mark.parametrize(
    "error", [GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "away"), OutcomeUnknown("the reply was lost")]
)
async def test_what_no_item_can_be_the_reason_for_is_every_items_error_at_once(error: GenerationError) -> None:
    calls = []

    async def flush(items: Sequence[int]) -> list[int]:
        calls.append(items)
        raise error

    writer = GroupWriter("test", flush, linger_seconds=0.01)
    answers = await asyncio.gather(*(writer.write(item) for item in range(5)), return_exceptions=True)

    assert answers == [error] * 5
    assert len(calls) == 1
    await writer.close()


async def test_an_item_whose_statement_times_out_blocks_nobody() -> None:
    times_out, is_reached = asyncio.Event(), asyncio.Event()

    async def flush(items: Sequence[int]) -> list[int]:
        if 13 in items and len(items) < 100:
            is_reached.set()
            await times_out.wait()
        if 13 in items:
            raise StatementEnded("too long", is_slow=True)
        return [item * 10 for item in items]

    writer = GroupWriter("test", flush, linger_seconds=0.01)
    group = [asyncio.create_task(writer.write(item)) for item in range(100)]
    await asyncio.wait_for(is_reached.wait(), 5)

    assert await asyncio.wait_for(writer.write(500), 5) == 5_000, "the next group does not wait for the one that failed"

    times_out.set()
    answers = await asyncio.wait_for(asyncio.gather(*group, return_exceptions=True), 5)
    assert isinstance(answers.pop(13), StatementEnded)
    assert answers == [item * 10 for item in range(100) if item != 13]
    await writer.close()


async def test_each_bad_item_of_a_large_group_has_its_own_error_after_few_statements() -> None:
    recorder = Recorder()
    writer = GroupWriter("test", recorder.flush, linger_seconds=0.01)
    items = [-number if number in {7, 320} else number for number in range(500)]

    answers = await asyncio.gather(*(writer.write(item) for item in items), return_exceptions=True)

    assert [str(answer) for answer in answers if isinstance(answer, Exception)] == ["refused: [-7]", "refused: [-320]"]
    assert [answer for answer in answers if not isinstance(answer, BaseException)] == [
        item * 10 for item in items if item >= 0
    ]
    assert len(recorder.groups) < 50
    await writer.close()


async def test_a_database_that_is_slow_for_everybody_is_not_asked_for_each_item() -> None:
    calls = []

    async def flush(items: Sequence[int]) -> list[int]:
        calls.append(items)
        raise StatementEnded("too long", is_slow=True)

    writer = GroupWriter("test", flush, linger_seconds=0.01)
    answers = await asyncio.gather(*(writer.write(item) for item in range(500)), return_exceptions=True)

    assert all(isinstance(answer, StatementEnded) for answer in answers)
    assert len(calls) <= 10
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
