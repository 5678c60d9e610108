"""When a circuit breaker opens, lets a probe pass, and closes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.catalog import BreakerPolicy
from libs.common.database.records_dispatch import AccountRecord
from libs.common.database.states import BreakerState
from libs.common.errors import ErrorCode, GenerationError
from services.dispatcher.breaker import Call, Calls, calls_since_change, counted, is_fault, is_shut, probing
from tests.support.catalogs import ACCOUNT

POLICY = BreakerPolicy(failure_rate=0.5, minimum_calls=10, window_seconds=60, open_seconds=30, longest_open_seconds=100)


def _later(account: AccountRecord, seconds: float) -> AccountRecord:
    return replace(account, now=account.now + seconds)


def _opened() -> AccountRecord:
    account = counted(ACCOUNT, Calls(failed=10), POLICY)
    assert account.breaker_state is BreakerState.OPEN
    return account


@pytest.mark.parametrize(
    ("calls", "state"),
    [
        pytest.param(Calls(answered=100), BreakerState.CLOSED, id="all answered"),
        pytest.param(Calls(failed=9), BreakerState.CLOSED, id="too few to tell"),
        pytest.param(Calls(failed=10), BreakerState.OPEN, id="enough, all failed"),
        pytest.param(Calls(answered=6, failed=5), BreakerState.CLOSED, id="less than half failed"),
        pytest.param(Calls(answered=5, failed=5), BreakerState.OPEN, id="half failed"),
    ],
)
def test_it_opens_by_the_share_of_failures(calls: Calls, state: BreakerState) -> None:
    assert counted(ACCOUNT, calls, POLICY).breaker_state is state


def test_failures_of_several_dispatchers_add_up() -> None:
    account = ACCOUNT
    for _ in range(10):
        account = counted(_later(account, 0.5), Calls(failed=1), POLICY)
    assert account.breaker_state is BreakerState.OPEN


def test_old_failures_fade() -> None:
    account = counted(ACCOUNT, Calls(failed=9), POLICY)
    assert counted(_later(account, 600), Calls(failed=2), POLICY).breaker_state is BreakerState.CLOSED


def test_an_open_one_lets_nothing_pass_until_its_time() -> None:
    account = _opened()
    assert is_shut(_later(account, 29))
    assert not is_shut(_later(account, 30))


def test_a_probe_shuts_it_for_all_others() -> None:
    account = probing(_later(_opened(), 31), POLICY)
    assert (account.breaker_state, is_shut(account)) == (BreakerState.HALF_OPEN, True)


def test_a_probe_that_is_answered_closes_it() -> None:
    account = counted(probing(_later(_opened(), 31), POLICY), Calls(answered=1), POLICY)
    assert (account.breaker_state, account.breaker_opens, is_shut(account)) == (BreakerState.CLOSED, 0, False)


def test_each_failed_probe_doubles_the_wait_up_to_a_bound() -> None:
    account, waits = _opened(), []
    for _ in range(4):
        assert account.breaker_retry_at is not None
        waits.append(account.breaker_retry_at - account.now)
        account = counted(probing(_later(account, waits[-1]), POLICY), Calls(failed=1), POLICY)
        assert account.breaker_state is BreakerState.OPEN
    assert waits == [30, 60, 100, 100]


def test_a_probe_that_is_never_heard_of_is_followed_by_another() -> None:
    assert not is_shut(_later(probing(_later(_opened(), 31), POLICY), 31))


def test_calls_from_before_it_opened_change_nothing() -> None:
    account = _opened()
    assert counted(_later(account, 1), Calls(answered=50), POLICY) == _later(account, 1)


def _half_open() -> AccountRecord:
    """An account whose probe left at 500 of the monotonic clock, read at 510 of it."""
    return _later(probing(_later(_opened(), 31), POLICY), 10)


@pytest.mark.parametrize(
    ("left_at", "has_failed", "state"),
    [
        pytest.param(460.0, False, BreakerState.HALF_OPEN, id="slow success from before it opened"),
        pytest.param(460.0, True, BreakerState.HALF_OPEN, id="slow failure from before it opened"),
        pytest.param(490.0, False, BreakerState.HALF_OPEN, id="success that left while it was open"),
        pytest.param(500.1, False, BreakerState.CLOSED, id="success of the probe"),
        pytest.param(500.1, True, BreakerState.OPEN, id="failure of the probe"),
    ],
)
def test_half_open_breaker_counts_the_probe_alone(left_at: float, state: BreakerState, *, has_failed: bool) -> None:
    account = _half_open()
    calls = calls_since_change(account, [Call(left_at, has_failed)], asked_at=510.0)
    assert counted(account, calls, POLICY).breaker_state is state


def test_probe_is_found_among_calls_from_before() -> None:
    account = _half_open()
    calls = [Call(400.0, has_failed=True), Call(500.1, has_failed=False), Call(450.0, has_failed=True)]
    assert calls_since_change(account, calls, asked_at=510.0) == Calls(answered=1)


@pytest.mark.parametrize("read_seconds", [0.0, 3.0])
def test_probe_counts_however_long_the_read_of_its_account_takes(read_seconds: float) -> None:
    account = _later(_half_open(), read_seconds)
    assert calls_since_change(account, [Call(500.001, has_failed=False)], asked_at=510.0) == Calls(answered=1)


def test_calls_that_left_before_it_closed_do_not_open_it_again() -> None:
    account = counted(_half_open(), Calls(answered=1), POLICY)
    assert account.breaker_state is BreakerState.CLOSED
    late = [Call(470.0, has_failed=True)] * 20
    assert calls_since_change(_later(account, 1), late, asked_at=511.0) == Calls()


def test_all_calls_count_of_a_breaker_that_never_changed() -> None:
    assert calls_since_change(
        ACCOUNT, [Call(1.0, has_failed=True), Call(2.0, has_failed=False)], asked_at=510.0
    ) == Calls(1, 1)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_only_faults_of_the_provider_are_faults(code: ErrorCode) -> None:
    faults = {ErrorCode.PROVIDER_ERROR, ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.PROVIDER_TIMEOUT}
    assert is_fault(GenerationError(code, "x")) == (code in faults)


def test_answer_is_no_fault() -> None:
    assert not is_fault(None)


@given(
    st.lists(
        st.tuples(st.floats(0, 200), st.integers(0, 20), st.integers(0, 20), st.booleans()), min_size=1, max_size=60
    )
)
def test_whatever_happens_it_can_close_again(steps: list[tuple[float, int, int, bool]]) -> None:
    account = ACCOUNT
    for seconds, answered, failed, probe in steps:
        account = _later(account, seconds)
        if probe and account.breaker_state is not BreakerState.CLOSED and not is_shut(account):
            account = probing(account, POLICY)
        account = counted(account, Calls(answered, failed), POLICY)
        # A wait has an end, and is never longer than the policy says.
        assert (account.breaker_retry_at is None) == (account.breaker_state is BreakerState.CLOSED)
        assert account.breaker_retry_at is None or account.breaker_retry_at - account.now <= 100
    account = _later(account, 101)
    assert not is_shut(account)
    if account.breaker_state is not BreakerState.CLOSED:
        account = counted(probing(account, POLICY), Calls(answered=1), POLICY)
    assert account.breaker_state is BreakerState.CLOSED or account.breaker_failures > 0
