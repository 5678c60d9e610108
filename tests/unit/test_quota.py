"""What a quota lets in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.database.records import NewGeneration
from libs.common.database.records_edge import KeyUsage, Quota
from libs.common.errors import ErrorCode
from services.gateway.quota import admit, admit_batch
from tests.support.rows import new_generation

USAGE = KeyUsage("key_1", Quota(), None, 0.0, 0, 86_400.0)


def _cents(*prices: float) -> list[NewGeneration]:
    return [new_generation(reserved_usd=price / 100) for price in prices]


def _let_in(usage: KeyUsage, *prices: float) -> list[bool]:
    return [refusal is None for refusal in admit(usage, _cents(*prices)).refusals]


def test_without_a_quota_all_come_in() -> None:
    assert _let_in(USAGE, 100, 100, 100) == [True, True, True]


@pytest.mark.parametrize(
    ("used", "prices", "let_in"),
    [
        pytest.param(0.0, (5,) * 21, [True] * 20 + [False], id="a dollar in nickels"),
        pytest.param(0.95, (6, 5, 1), [False, True, False], id="one that does not fit bars no smaller one"),
        pytest.param(1.0, (0,), [True], id="what is free comes in"),
        pytest.param(2.0, (0, 1), [False, False], id="a budget that was lowered"),
    ],
)
def test_a_budget_is_never_exceeded(used: float, prices: tuple[float, ...], let_in: list[bool]) -> None:
    assert _let_in(replace(USAGE, quota=Quota(monthly_budget_usd=1.0), spent_usd=used), *prices) == let_in


@pytest.mark.parametrize("part", ["reserved_usd", "spent_usd", "at_risk_usd"])
def test_each_sum_counts_against_the_budget(part: str) -> None:
    sums: dict[str, Any] = {part: 0.96}
    usage = replace(USAGE, quota=Quota(monthly_budget_usd=1.0), **sums)
    assert _let_in(usage, 5, 4) == [False, True]


@pytest.mark.parametrize(("live", "let_in"), [(0, [True, True]), (1, [True, False]), (2, [False, False])])
def test_live_generations_are_bounded(live: int, let_in: list[bool]) -> None:
    usage = replace(USAGE, quota=Quota(live_generations=2), live_generations=live)
    assert _let_in(usage, 1, 1) == let_in


@pytest.mark.parametrize(
    ("tokens", "age", "let_in", "left"),
    [
        pytest.param(None, 0.0, 60, 0.0, id="a full bucket"),
        pytest.param(0.0, 30.0, 30, 0.0, id="half a minute gives half"),
        pytest.param(0.0, 3_600.0, 60, 0.0, id="no more than a minute's worth"),
        pytest.param(0.5, 0.0, 0, 0.5, id="half a token is none"),
    ],
)
def test_requests_come_back_evenly(tokens: float | None, age: float, let_in: int, left: float) -> None:
    usage = replace(USAGE, quota=Quota(requests_per_minute=60), tokens=tokens, tokens_age_seconds=age)
    admission = admit(usage, _cents(*[1] * 70))
    assert admission.refusals.count(None) == let_in
    assert admission.tokens == pytest.approx(left)


def test_refusals_say_how_long_and_how_much() -> None:
    quota = Quota(requests_per_minute=6, monthly_budget_usd=1.0)
    (rate,) = admit(replace(USAGE, quota=quota, tokens=0.5), _cents(1)).refusals
    (money,) = admit(
        replace(USAGE, quota=quota, reserved_usd=0.25, spent_usd=0.5, at_risk_usd=0.25), _cents(1)
    ).refusals
    assert rate is not None
    assert money is not None
    assert (rate.code, rate.retry_after_seconds, rate.details["limit"]) == (ErrorCode.RATE_LIMITED, 5.0, 6)
    assert (money.code, money.retry_after_seconds, money.details["used_usd"]) == (
        ErrorCode.QUOTA_EXCEEDED, 86_400.0, 1.0,
    )  # fmt: skip
    parts = {name: money.details[name] for name in ("reserved_usd", "spent_usd", "at_risk_usd", "requested_usd")}
    assert parts == {"reserved_usd": 0.25, "spent_usd": 0.5, "at_risk_usd": 0.25, "requested_usd": 0.01}
    assert "0.25 reserved, 0.5 spent, 0.25 at risk" in money.message


@given(
    budget=st.floats(0, 10),
    used=st.floats(0, 10),
    prices=st.lists(st.floats(0, 300), max_size=20),
    live=st.none() | st.integers(1, 10),
)
def test_whatever_comes_no_bound_is_passed(budget: float, used: float, prices: list[float], live: int | None) -> None:
    usage = replace(USAGE, quota=Quota(live_generations=live, monthly_budget_usd=budget), spent_usd=used)
    let_in = [price for price, is_in in zip(prices, _let_in(usage, *prices), strict=True) if is_in]
    assert not let_in or used + sum(let_in) / 100 <= budget + 1e-6
    assert live is None or len(let_in) <= live


@pytest.mark.parametrize(
    ("quota", "places", "reserved_usd", "refused_by"),
    [
        pytest.param(Quota(), 100, 1_000.0, None, id="no quota"),
        pytest.param(Quota(requests_per_minute=1), 100, 0.0, None, id="a batch is one request"),
        pytest.param(Quota(live_generations=10), 10, 0.0, None, id="as many places as there are"),
        pytest.param(Quota(live_generations=10), 11, 0.0, "live_generations", id="a place too many"),
        pytest.param(Quota(monthly_budget_usd=5.0), 1, 5.0, None, id="all of the budget"),
        pytest.param(Quota(monthly_budget_usd=5.0), 1, 5.01, "monthly_budget_usd", id="a cent too much"),
    ],
)
def test_a_batch_comes_in_whole_or_not_at_all(
    quota: Quota, places: int, reserved_usd: float, refused_by: str | None
) -> None:
    (refusal,) = admit_batch(replace(USAGE, quota=quota), places, reserved_usd).refusals
    assert (refusal.details["quota"] if refusal else None) == refused_by


def test_the_second_batch_of_a_minute_waits_for_its_request() -> None:
    usage = replace(USAGE, quota=Quota(requests_per_minute=1))
    admission = admit_batch(usage, 1, 0.0)
    assert admission.tokens == 0.0
    (refusal,) = admit_batch(replace(usage, tokens=admission.tokens), 1, 0.0).refusals
    assert refusal is not None
    assert refusal.retry_after_seconds == 60.0
