from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError, ProgrammingError

from libs.common.catalog import Retry
from libs.common.coalesce import GroupWriter
from libs.common.errors import ErrorCode, GenerationError, OutcomeUnknown, StatementEnded
from libs.common.outcome_writer import OutcomeWriter
from libs.common.retry import repeat, until_database_answers, wait_seconds
from tests.support.waiting import eventually

POLICY = Retry(first_wait_seconds=1, longest_wait_seconds=30)


@pytest.mark.parametrize(("failures", "expected"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (60, 30)])
def test_waits_double_up_to_the_longest(failures: int, expected: float) -> None:
    assert wait_seconds(POLICY, failures, at_least_seconds=None, chance=0.5) == pytest.approx(expected)


@given(st.integers(1, 100), st.floats(0, 1))
def test_waits_spread_by_a_quarter_either_way(failures: int, chance: float) -> None:
    middle = wait_seconds(POLICY, failures, at_least_seconds=None, chance=0.5)
    assert middle * 0.75 <= wait_seconds(POLICY, failures, at_least_seconds=None, chance=chance) <= middle * 1.25


def test_what_the_provider_asks_for_is_waited_at_least() -> None:
    assert wait_seconds(POLICY, 1, at_least_seconds=42, chance=0) == 42


async def test_an_outcome_is_written_again_until_the_database_answers() -> None:
    answers = iter([GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "away")] * 2)
    calls = []

    async def write() -> str:
        calls.append(1)
        for error in answers:
            raise error
        return "written"

    assert await until_database_answers(write) == "written"
    assert len(calls) == 3


async def test_a_write_whose_outcome_is_unknown_is_done_again() -> None:
    answers = iter([OutcomeUnknown("the reply was lost")])

    async def write() -> str:
        for error in answers:
            raise error
        return "written"

    assert await until_database_answers(write) == "written"


async def test_a_statement_that_the_database_ends_is_not_repeated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    calls = []

    async def write() -> None:
        calls.append(1)
        raise StatementEnded("too long")

    with pytest.raises(StatementEnded):
        await asyncio.wait_for(until_database_answers(write), 10)
    assert len(calls) == 21


async def test_a_writer_of_outcomes_says_that_they_wait_for_the_database() -> None:
    is_away, tried = True, asyncio.Event()

    async def flush(items: Sequence[int]) -> Sequence[int]:
        tried.set()
        if is_away:
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "away")
        return items

    async def waits() -> bool:
        return writer.is_waiting

    writer = OutcomeWriter(GroupWriter("test", flush))
    given_up, kept = asyncio.create_task(writer.write(1)), asyncio.create_task(writer.write(2))
    assert not writer.is_waiting
    await asyncio.wait_for(tried.wait(), 5)
    await eventually(waits, within=5, what="the writer says that it waits")
    given_up.cancel()
    is_away = False
    assert await asyncio.wait_for(kept, 10) == 2
    assert not writer.is_waiting
    await writer.close()


async def test_any_other_fault_comes_through() -> None:
    async def write() -> None:
        raise ValueError("a row that the database refuses")

    with pytest.raises(ValueError, match="refuses"):
        await until_database_answers(write)


def test_what_the_provider_asks_for_has_a_bound() -> None:
    policy = Retry(first_wait_seconds=1, longest_retry_after_seconds=60)
    assert wait_seconds(policy, 1, at_least_seconds=86_400, chance=0) == 60


QUICK = Retry(attempts=3, first_wait_seconds=0.001)


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        pytest.param(GenerationError(ErrorCode.PROVIDER_UNAVAILABLE, "away"), 3, id="retryable"),
        pytest.param(GenerationError(ErrorCode.PROVIDER_TIMEOUT, "slow", retry_after_seconds=0.002), 3, id="asked for"),
        pytest.param(GenerationError(ErrorCode.INVALID_REQUEST, "no"), 1, id="not retryable"),
        pytest.param(ValueError("a fault of ours"), 1, id="no error of the taxonomy"),
    ],
)
async def test_a_call_is_repeated_as_the_taxonomy_says(error: Exception, calls: int) -> None:
    made = []

    async def call() -> None:
        made.append(1)
        raise error

    with pytest.raises(type(error)):
        await repeat(QUICK, call)
    assert len(made) == calls


async def test_a_repeated_call_answers_with_what_it_got_at_last() -> None:
    answers = iter([GenerationError(ErrorCode.PROVIDER_UNAVAILABLE, "away"), None])

    async def call() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "found"

    assert await repeat(QUICK, call) == "found"


async def test_a_statement_that_is_refused_for_no_fault_of_its_rows_is_done_again() -> None:
    refusals = iter([ProgrammingError("UPDATE", {}, Exception("permission denied"))])

    async def write() -> str:
        for error in refusals:
            raise error
        return "written"

    assert await until_database_answers(write) == "written"

    async def conflicts() -> None:
        raise IntegrityError("INSERT", {}, Exception("duplicate key"))

    with pytest.raises(IntegrityError):
        await asyncio.wait_for(until_database_answers(conflicts), 1)
