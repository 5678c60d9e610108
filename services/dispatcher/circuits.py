"""What this dispatcher learns of the providers goes into the shared breakers; what all know shows outside.

In metrics, and in the health service: `provider.<id>` is NOT_SERVING while the account's breaker is not closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from libs.common import metrics
from libs.common.catalog import BreakerPolicy, CatalogHolder
from libs.common.database.records import AccountRecord
from libs.common.database.states import BreakerState
from libs.common.database.stores.accounts import AccountStore
from libs.common.errors import GenerationError
from services.dispatcher.breaker import Calls, counted

log = structlog.get_logger()
SetHealth = Callable[[str, bool], Awaitable[None]]
"""Takes the name of a component and whether it serves."""

_NUMBERS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Circuits:
    """Counts how submits end, and tells."""

    def __init__(self, store: AccountStore, catalog: CatalogHolder, set_health: SetHealth) -> None:
        self._store = store
        self._catalog = catalog
        self._set_health = set_health
        self._calls: dict[str, Calls] = {}
        self._states: dict[str, BreakerState] = {}

    def note(self, provider_id: str, error: GenerationError | None) -> None:
        """A submit has ended: with an answer, or so."""
        self._calls[provider_id] = self._calls.get(provider_id, Calls()).with_outcome(error)

    async def share(self) -> bool:
        """Count what was noted since the last time, and show what all dispatchers know."""
        calls, self._calls = self._calls, {}
        if calls:
            try:
                await self._store.change(calls, lambda account: self._counted(account, calls[account.provider_id]))
            except GenerationError:
                # Nothing was counted: the database is away.
                for provider_id, since in self._calls.items():
                    before = calls.get(provider_id, Calls())
                    calls[provider_id] = Calls(before.answered + since.answered, before.failed + since.failed)
                self._calls = calls
                raise
        await self._show(await self._store.read())
        return False

    def _counted(self, account: AccountRecord, calls: Calls) -> AccountRecord:
        provider = self._catalog.current.providers.get(account.provider_id)
        return counted(account, calls, provider.breaker if provider else BreakerPolicy())

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
