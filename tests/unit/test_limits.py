"""How much may be claimed for a provider account."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.catalog import Provider
from libs.common.database.records_dispatch import AccountRecord, Unavailable
from libs.common.database.states import BreakerState
from services.dispatcher.limits import grant, seconds_to_next, unavailable
from tests.support.catalogs import ACCOUNT, PROVIDER

SPENT = replace(ACCOUNT, spend_day=ACCOUNT.today, spend_usd=9.0)
SHUT = replace(ACCOUNT, breaker_state=BreakerState.OPEN, breaker_retry_at=ACCOUNT.now + 5)
WAITED = replace(SHUT, breaker_retry_at=ACCOUNT.now - 1)


def _provider(**limits: Any) -> Provider:
    return Provider.model_validate({**PROVIDER.model_dump(mode="json"), "limits": limits})


@pytest.mark.parametrize(
    ("account", "limits", "places"),
    [
        pytest.param(ACCOUNT, {}, 50, id="no limits"),
        pytest.param(ACCOUNT, {"requests_per_second": 8}, 8, id="a full bucket holds a second"),
        pytest.param(ACCOUNT, {"requests_per_minute": 30}, 1, id="and one at least"),
        pytest.param(ACCOUNT, {"requests_per_second": 20, "requests_per_minute": 300}, 5, id="the narrower rate"),
        pytest.param(replace(ACCOUNT, tokens=0.4, tokens_at=ACCOUNT.now), {"requests_per_second": 8}, 0, id="used up"),
        pytest.param(
            replace(ACCOUNT, tokens=0.0, tokens_at=ACCOUNT.now - 0.5), {"requests_per_second": 8}, 4, id="half back"
        ),
        pytest.param(SPENT, {"daily_spend_usd": 10}, 50, id="something left to spend"),
        pytest.param(SPENT, {"daily_spend_usd": 9}, 0, id="all spent"),
        pytest.param(replace(SPENT, spend_day="2026-01-01"), {"daily_spend_usd": 9}, 50, id="spent on another day"),
        pytest.param(SHUT, {}, 0, id="breaker open"),
        pytest.param(WAITED, {}, 1, id="one probe"),
    ],
)
def test_what_the_limits_leave(account: AccountRecord, limits: dict[str, Any], places: int) -> None:
    assert grant(account, _provider(**limits), 50).places == places


def test_a_grant_never_passes_the_room() -> None:
    assert grant(ACCOUNT, _provider(requests_per_second=100), 3).places == 3


def test_the_budget_goes_along() -> None:
    assert grant(SPENT, _provider(daily_spend_usd=10), 5).budget_usd == pytest.approx(1.0)


def test_a_probe_marks_the_account() -> None:
    assert grant(WAITED, _provider(), 5).account.breaker_state is BreakerState.HALF_OPEN


@given(
    st.floats(0.1, 100),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 200)), min_size=1, max_size=80),
)
def test_no_more_leave_than_the_rate_allows(rate: float, asks: list[tuple[float, int]]) -> None:
    provider, account, taken, elapsed = _provider(requests_per_second=rate), ACCOUNT, 0, 0.0
    for seconds, room in asks:
        elapsed += seconds
        made = grant(replace(account, now=account.now + seconds), provider, room)
        taken += made.places
        account = replace(made.account, tokens=made.account.tokens - made.places)
    assert taken <= max(1.0, rate) + rate * elapsed + 1e-3


@pytest.mark.parametrize(
    ("account", "limits", "expected"),
    [
        pytest.param(ACCOUNT, {}, None, id="well"),
        pytest.param(SHUT, {}, Unavailable("bfl", "PROVIDER_UNAVAILABLE"), id="breaker open"),
        pytest.param(WAITED, {}, None, id="breaker about to let a probe pass"),
        pytest.param(SPENT, {"daily_spend_usd": 9}, Unavailable("bfl", "QUOTA_EXCEEDED"), id="all spent"),
        pytest.param(SPENT, {"daily_spend_usd": 12}, Unavailable("bfl", "QUOTA_EXCEEDED", 3.0), id="for dear ones"),
    ],
)
def test_who_should_not_wait(account: AccountRecord, limits: dict[str, Any], expected: Unavailable | None) -> None:
    assert unavailable(account, _provider(**limits)) == expected


def test_the_next_token_is_waited_for_as_long_as_it_takes() -> None:
    assert seconds_to_next(_provider(requests_per_minute=60)) == 1
    assert seconds_to_next(_provider()) is None
