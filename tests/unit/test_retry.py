from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.catalog import Retry
from libs.common.errors import ErrorCode, GenerationError
from libs.common.retry import repeat, until_database_answers, wait_seconds

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
