"""Adds the outcomes of this dispatcher's submits to the shared circuit breakers, and publishes the breakers' states.

They are in metrics and in the health service: `provider.<id>` is NOT_SERVING while the account's breaker is not closed.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

import structlog

from libs.common import metrics
from libs.common.catalog import BreakerPolicy, CatalogHolder
from libs.common.database.records_dispatch import AccountRecord
from libs.common.database.states import BreakerState
from libs.common.database.stores.accounts import AccountStore
from libs.common.errors import GenerationError
from services.dispatcher.breaker import Call, calls_since_change, counted, is_fault

log = structlog.get_logger()
_CALLS_KEPT = 10_000
SetHealth = Callable[[str, bool], Awaitable[None]]
"""Receives the name of a component and whether it serves."""

_NUMBERS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Circuits:
    """Counts the outcomes of submits. While the database is away, the last 10,000 of each account are kept."""

    def __init__(self, store: AccountStore, catalog: CatalogHolder, set_health: SetHealth) -> None:
        self._store = store
        self._catalog = catalog
        self._set_health = set_health
        self._calls: defaultdict[str, deque[Call]] = defaultdict(lambda: deque(maxlen=_CALLS_KEPT))
        self._states: dict[str, BreakerState] = {}

    def note(self, provider_id: str, error: GenerationError | None, *, left_at: float) -> None:
        """Record a submit that has ended.

        Args:
            provider_id: the account.
            error: why the submit failed. None: the provider accepted it.
            left_at: when the request left, by the monotonic clock, in seconds.
        """
        self._calls[provider_id].append(Call(left_at, has_failed=is_fault(error)))

    async def share(self) -> bool:
        """Count the calls recorded since the last iteration, and publish the shared states. One iteration of a loop."""
        calls = {provider_id: list(noted) for provider_id, noted in self._calls.items()}
        self._calls.clear()
        if calls:
            asked_at = monotonic()
            try:
                await self._store.change(
                    calls, lambda account: self._counted(account, calls[account.provider_id], asked_at)
                )
            except GenerationError:
                # Nothing was counted: the database is away.
                for provider_id, before in calls.items():
                    self._calls[provider_id] = deque([*before, *self._calls[provider_id]], maxlen=_CALLS_KEPT)
                raise
        await self._show(await self._store.read())
        return False

    def _counted(self, account: AccountRecord, calls: Sequence[Call], asked_at: float) -> AccountRecord:
        provider = self._catalog.current.providers.get(account.provider_id)
        policy = provider.breaker if provider else BreakerPolicy()
        return counted(account, calls_since_change(account, calls, asked_at=asked_at), policy)

    async def _show(self, accounts: list[AccountRecord]) -> None:
        known = self._catalog.current.providers
        states = dict.fromkeys(known, BreakerState.CLOSED)
        for account in accounts:
            if account.provider_id in known:
                states[account.provider_id] = account.breaker_state
                metrics.PROVIDER_SPEND_USD.labels(account.provider_id).set(account.spend_today_usd)
        for provider_id, state in states.items():
            before = self._states.get(provider_id)
            if state is not before:
                await self._set_health(f"provider.{provider_id}", state is BreakerState.CLOSED)
                metrics.BREAKER_STATE.labels(provider_id).set(_NUMBERS[state])
            if before is not None and state is not before:
                log.warning("breaker changed", provider=provider_id, state=state.value, before=before.value)
        self._states = states
