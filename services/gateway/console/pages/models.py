"""Providers and models: the catalog as it is loaded, what is wrong with it, and how its limits are used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from libs.common.catalog import Catalog, Model, Provider
from libs.common.database.records_dispatch import AccountRecord
from libs.common.database.states import BreakerState
from services.gateway.console.visit import Page, Visit


@dataclass(frozen=True, slots=True)
class Used:
    """What is used of a provider account's limits."""

    spend_usd: float
    live: int
    waiting: int
    breaker: str


async def show(visit: Visit) -> Page:
    """The page."""
    catalog, fault = visit.parts.catalog.current, visit.parts.catalog.last_fault
    accounts, tasks, queues = await asyncio.gather(
        visit.parts.accounts.read(), visit.parts.statistics.tasks(), visit.parts.statistics.queues()
    )
    live = {task.provider_id: task.live for task in tasks}
    waiting = {queue.provider_id: queue.waiting for queue in queues}
    values = {
        "providers": sorted(catalog.providers.values(), key=lambda provider: provider.id),
        "models": {provider: _of(provider, catalog) for provider in catalog.providers},
        "used": {
            provider: _used(provider, accounts, live.get(provider, 0), waiting.get(provider, 0))
            for provider in catalog.providers
        },
        "faults": list(fault.faults) if fault is not None else [],
        "credentials": {provider.id: _credentials(provider) for provider in catalog.providers.values()},
        "price": price,
    }
    return Page("models.html", values)


def price(model: Model) -> tuple[float, str]:
    """What a model costs, in US dollars, and for what: `output` or `second`."""
    if model.price_per_second_usd is not None:
        return model.price_per_second_usd, "second"
    return model.price_per_output_usd or 0.0, "output"


def _of(provider_id: str, catalog: Catalog) -> list[Model]:
    found = [model for model in catalog.models.values() if model.provider == provider_id]
    return sorted(found, key=lambda model: model.identifier)


def _used(provider_id: str, accounts: Iterable[AccountRecord], live: int, waiting: int) -> Used:
    account = next((one for one in accounts if one.provider_id == provider_id), None)
    breaker = account.breaker_state if account else BreakerState.CLOSED
    return Used(account.spend_today_usd if account else 0.0, live, waiting, breaker.value)


def _credentials(provider: Provider) -> list[str]:
    """The names of credentials; whether they are set is known where dispatchers and pollers run."""
    return sorted(provider.credentials.values())
