"""The circuit breaker of a provider account: transitions without side effects. All dispatchers share its row.

CLOSED admits all calls, and becomes OPEN if too many of the last calls failed. OPEN admits no call for a time, then one
probe (HALF_OPEN), whose outcome closes the breaker or opens it again for twice as long. A probe without an outcome
counts as lost after the same time. A call that left before the breaker last changed is stale and not counted: it says
nothing about the provider since then. So only the probe counts while the breaker is HALF_OPEN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from libs.common.catalog import BreakerPolicy
from libs.common.database.records_dispatch import AccountRecord
from libs.common.database.states import BreakerState
from libs.common.errors import ErrorCode, GenerationError

_FAULTS = {ErrorCode.PROVIDER_ERROR, ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.PROVIDER_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Call:
    """A submit that has ended.

    Attributes:
        left_at: when the request left, by this process's monotonic clock, in seconds.
        has_failed: whether the submit failed by a fault of the provider's own.
    """

    left_at: float
    has_failed: bool


@dataclass(frozen=True, slots=True)
class Calls:
    """How many submits the provider answered in any way, and how many failed by a fault of its own."""

    answered: int = 0
    failed: int = 0


def is_fault(error: GenerationError | None) -> bool:
    """Whether the error of a submit is a fault of the provider's own. A refusal is an answer and no fault."""
    return error is not None and error.code in _FAULTS


def calls_since_change(account: AccountRecord, calls: Iterable[Call], *, asked_at: float) -> Calls:
    """Count the calls that left since the account's breaker last changed; earlier ones are stale.

    Args:
        account: with the database's time at which it was read, and at which its breaker changed.
        calls: that have ended, in this process.
        asked_at: this process's monotonic time before the account was read. Clocks are compared by it: a call seems to
            have left later than it did, by as long as the read took, so that the answer of a probe is never lost.
    """
    changed_at = account.breaker_changed_at
    recent = [call for call in calls if changed_at is None or account.now - (asked_at - call.left_at) > changed_at]
    failed = sum(call.has_failed for call in recent)
    return Calls(answered=len(recent) - failed, failed=failed)


def counted(account: AccountRecord, calls: Calls, policy: BreakerPolicy) -> AccountRecord:
    """The account after these calls, which left since its breaker last changed."""
    since = account.now - (account.now if account.breaker_counted_at is None else account.breaker_counted_at)
    fading = 0.5 ** (max(0.0, since) / policy.window_seconds)
    successes = account.breaker_successes * fading + calls.answered
    failures = account.breaker_failures * fading + calls.failed
    if account.breaker_state is BreakerState.HALF_OPEN:
        if calls.failed:
            return _opened(account, policy)
        return _closed(account) if calls.answered else account
    if account.breaker_state is BreakerState.OPEN:
        # The calls left before the breaker opened: they are stale.
        return account
    total = successes + failures
    # Rounded, so that ten calls within a second are ten although the first have faded by a hair.
    if failures and round(total) >= policy.minimum_calls and failures / total >= policy.failure_rate:
        return _opened(account, policy)
    return replace(account, breaker_successes=successes, breaker_failures=failures, breaker_counted_at=account.now)


def is_shut(account: AccountRecord) -> bool:
    """Whether no call is admitted now, not even a probe."""
    waits = account.breaker_retry_at is not None and account.now < account.breaker_retry_at
    return account.breaker_state is not BreakerState.CLOSED and waits


def probing(account: AccountRecord, policy: BreakerPolicy) -> AccountRecord:
    """The account of an open breaker once a probe has left."""
    return replace(
        account,
        breaker_state=BreakerState.HALF_OPEN,
        breaker_retry_at=account.now + policy.open_seconds,
        breaker_changed_at=account.now,
    )


def _opened(account: AccountRecord, policy: BreakerPolicy) -> AccountRecord:
    seconds = min(policy.longest_open_seconds, policy.open_seconds * 2.0 ** min(account.breaker_opens, 30))
    return replace(
        account,
        breaker_state=BreakerState.OPEN,
        breaker_successes=0.0,
        breaker_failures=0.0,
        breaker_counted_at=account.now,
        breaker_retry_at=account.now + seconds,
        breaker_opens=account.breaker_opens + 1,
        breaker_changed_at=account.now,
    )


def _closed(account: AccountRecord) -> AccountRecord:
    return replace(
        account,
        breaker_state=BreakerState.CLOSED,
        breaker_successes=0.0,
        breaker_failures=0.0,
        breaker_counted_at=account.now,
        breaker_retry_at=None,
        breaker_opens=0,
        breaker_changed_at=account.now,
    )
