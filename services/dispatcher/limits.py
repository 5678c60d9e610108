"""How much may be claimed for a provider account now: rate, tasks at once, daily spend, circuit breaker. Pure."""

from __future__ import annotations

from dataclasses import replace

from libs.common.catalog import Provider
from libs.common.database.records_dispatch import AccountRecord, Grant, Unavailable
from libs.common.database.states import BreakerState
from libs.common.errors import ErrorCode
from services.dispatcher import breaker

_BURST_SECONDS = 1.0


def grant(account: AccountRecord, provider: Provider, room: int) -> Grant:
    """What of the `room` that a dispatcher has the account's limits leave.

    The bucket of the rate holds what may leave in a second, and one request at least.
    """
    budget_usd = budget_left_usd(account, provider)
    if breaker.is_shut(account) or (budget_usd is not None and budget_usd <= 0):
        return Grant(account, 0)
    if account.breaker_state is not BreakerState.CLOSED:
        account, room = breaker.probing(account, provider.breaker), min(room, 1)
    rate, is_rate_bound = provider.limits.rate_per_second, False
    if rate is not None:
        account = _refilled(account, rate)
        is_rate_bound = account.tokens < room
        room = min(room, int(account.tokens))
    return Grant(account, room, provider.limits.concurrent_tasks, budget_usd, is_rate_bound)


def budget_left_usd(account: AccountRecord, provider: Provider) -> float | None:
    """What the account may spend today yet, in US dollars; None: no bound."""
    limit = provider.limits.daily_spend_usd
    return None if limit is None else limit - account.spend_today_usd


def unavailable(account: AccountRecord, provider: Provider) -> Unavailable | None:
    """Why requests that can go elsewhere should not wait for this account; None: they may."""
    if breaker.is_shut(account):
        return Unavailable(provider.id, ErrorCode.PROVIDER_UNAVAILABLE)
    budget_usd = budget_left_usd(account, provider)
    if budget_usd is None:
        return None
    return Unavailable(provider.id, ErrorCode.QUOTA_EXCEEDED, budget_usd if budget_usd > 0 else None)


def seconds_to_next(provider: Provider) -> float | None:
    """How long an account whose rate is used up takes until one more may leave; None: it has no rate."""
    rate = provider.limits.rate_per_second
    return None if rate is None else max(0.02, 1 / rate)


def _refilled(account: AccountRecord, rate: float) -> AccountRecord:
    size = max(1.0, rate * _BURST_SECONDS)
    if account.tokens_at is None:
        return replace(account, tokens=size, tokens_at=account.now)
    # Negative tokens never come from here; a row of an account that had no rate before may hold some.
    tokens = max(0.0, account.tokens) + max(0.0, account.now - account.tokens_at) * rate
    return replace(account, tokens=min(size, tokens), tokens_at=account.now)
