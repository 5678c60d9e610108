"""The circuit breaker of a provider account: pure transitions. All dispatchers share its state through the row.

CLOSED lets all pass and opens where too many of the last calls failed. OPEN lets nothing pass for a while, then one
probe (HALF_OPEN), whose outcome closes it or opens it again for twice as long. A probe that is never heard of counts
as lost after the same while.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from libs.common.catalog import BreakerPolicy
from libs.common.database.records import AccountRecord
from libs.common.database.states import BreakerState
from libs.common.errors import ErrorCode, GenerationError

_FAULTS = {ErrorCode.PROVIDER_ERROR, ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.PROVIDER_TIMEOUT}


@dataclass(frozen=True, slots=True)
class Calls:
    """Submits that were answered in any way, and those that failed by a fault of the provider's own."""

    answered: int = 0
    failed: int = 0

    def with_outcome(self, error: GenerationError | None) -> Calls:
        """One more, that ended so. A refusal is an answer: whoever refuses is there."""
        if error is not None and error.code in _FAULTS:
            return replace(self, failed=self.failed + 1)
        return replace(self, answered=self.answered + 1)


def counted(account: AccountRecord, calls: Calls, policy: BreakerPolicy) -> AccountRecord:
    """The account after these calls."""
    since = account.now - (account.now if account.breaker_counted_at is None else account.breaker_counted_at)
    fading = 0.5 ** (max(0.0, since) / policy.window_seconds)
    successes = account.breaker_successes * fading + calls.answered
    failures = account.breaker_failures * fading + calls.failed
    if account.breaker_state is BreakerState.HALF_OPEN:
        if calls.failed:
            return _opened(account, policy)
        return _closed(account) if calls.answered else account
    if account.breaker_state is BreakerState.OPEN:
        # Calls that left before it opened say nothing about now.
        return account
    total = successes + failures
    # Rounded, so that ten calls within a second are ten although the first have faded by a hair.
    if failures and round(total) >= policy.minimum_calls and failures / total >= policy.failure_rate:
        return _opened(account, policy)
    return replace(account, breaker_successes=successes, breaker_failures=failures, breaker_counted_at=account.now)


def is_shut(account: AccountRecord) -> bool:
    """Whether nothing may pass now, not even a probe."""
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
