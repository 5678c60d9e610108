from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.database.records import Strategy
from services.poller.strategies import LONGEST_SECONDS, delay_seconds

STRATEGIES: st.SearchStrategy[Strategy] = st.sampled_from(["fixed", "exponential"])


@pytest.mark.parametrize(
    ("strategy", "polls", "expected"),
    [
        pytest.param("fixed", 1, 2.0, id="fixed, first"),
        pytest.param("fixed", 50, 2.0, id="fixed, fiftieth"),
        pytest.param("exponential", 1, 3.0, id="exponential, first"),
        pytest.param("exponential", 2, 4.5, id="exponential, second"),
        pytest.param("exponential", 3, 6.75, id="exponential, third"),
        pytest.param("exponential", 13, 300.0, id="exponential, at the cap of five minutes"),
        pytest.param("exponential", 10_000, 300.0, id="exponential, without overflow"),
    ],
)
def test_how_the_waits_grow(strategy: Strategy, polls: int, expected: float) -> None:
    assert delay_seconds(strategy, 2_000, polls, seconds_left=10_000, chance=0.5) == pytest.approx(expected)


def test_waits_are_spread_by_a_tenth() -> None:
    waits = [delay_seconds("fixed", 10_000, 1, seconds_left=100, chance=chance) for chance in (0, 0.5, 1)]
    assert waits == pytest.approx([9, 10, 11])


@given(STRATEGIES, st.integers(100, 300_000), st.integers(1, 1_000), st.floats(0.1, 86_400))
def test_a_wait_never_passes_the_deadline(strategy: Strategy, interval_ms: int, polls: int, left: float) -> None:
    delay = delay_seconds(strategy, interval_ms, polls, seconds_left=left)
    assert 0.1 <= delay <= max(0.1, left)


@given(STRATEGIES, st.integers(100, 300_000), st.integers(1, 1_000))
def test_waits_never_shrink(strategy: Strategy, interval_ms: int, polls: int) -> None:
    first = delay_seconds(strategy, interval_ms, polls, seconds_left=86_400, chance=0.5)
    assert delay_seconds(strategy, interval_ms, polls + 1, seconds_left=86_400, chance=0.5) >= first


@given(st.integers(100, 300_000), st.integers(1, 1_000))
def test_a_wait_is_never_above_five_minutes(interval_ms: int, polls: int) -> None:
    assert delay_seconds("exponential", interval_ms, polls, seconds_left=86_400) <= LONGEST_SECONDS


def test_a_deadline_that_has_passed_makes_the_last_look_soon() -> None:
    assert delay_seconds("exponential", 5_000, 4, seconds_left=-3) == 0.1
