"""Wrong API keys from one address: the first are answered at once, the next ones with growing delays, for a minute."""

from __future__ import annotations

import asyncio

import pytest

from libs.common.errors import ErrorCode, GenerationError
from services.gateway.authentication import Guesses

ADDRESS = "203.0.113.7"


class _Clock:
    """A clock that the test advances. `slept`: the delays of answers, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []
        self.guesses = Guesses(2.0, now=lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def delays(self, count: int) -> list[float]:
        """Return the delays of `count` more wrong keys, in seconds; those answered at once have none."""
        self.slept.clear()
        for _ in range(count):
            await self.guesses.failed(ADDRESS)
        return list(self.slept)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    return _Clock(monkeypatch)


async def test_the_first_five_are_free_and_the_next_ones_double_up_to_the_longest(clock: _Clock) -> None:
    assert await clock.delays(12) == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


async def test_a_minute_later_counting_begins_anew_and_goes_on(clock: _Clock) -> None:
    assert await clock.delays(6) == [0.1]
    clock.now += 60.0
    assert await clock.delays(1) == [0.2]
    clock.now += 0.1
    assert await clock.delays(5) == []
    assert await clock.delays(2) == [0.1, 0.2]
    clock.now += 59.0
    assert await clock.delays(1) == [0.4]


async def test_delayed_answers_do_not_count_once_they_are_sent(clock: _Clock) -> None:
    assert len(await clock.delays(200)) == 195


async def test_no_more_than_fifty_answers_are_delayed_at_once() -> None:
    guesses = Guesses(600.0)
    waiting = [asyncio.create_task(guesses.failed(ADDRESS)) for _ in range(55)]
    await asyncio.sleep(0)
    with pytest.raises(GenerationError) as caught:
        await guesses.failed(ADDRESS)
    assert caught.value.code is ErrorCode.RATE_LIMITED
    assert len(await _still(waiting)) == 50


async def _still(tasks: list[asyncio.Task[None]]) -> list[asyncio.Task[None]]:
    """Those that had not ended; they are cancelled."""
    found = [task for task in tasks if not task.done()]
    for task in found:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found
