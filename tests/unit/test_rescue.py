"""Taking over what a dead dispatcher left: not while the database was away, for then the living lost their leases."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from libs.common.catalog import CatalogHolder
from libs.common.database.stores.claiming import ClaimStore
from libs.common.settings import Settings
from services.dispatcher.claims import Claims
from services.dispatcher.leases import Leases
from services.dispatcher.lookups import Lookups
from services.dispatcher.submit import Submitter
from tests.support.waiting import eventually

LEASE_SECONDS = 0.6


class _Store:
    """Answers `look` after `hangs_seconds`."""

    def __init__(self) -> None:
        self.hangs_seconds = 0.0
        self.rescues = 0

    async def look(self) -> None:
        await asyncio.sleep(self.hangs_seconds)

    async def rescue(self, *_: Any, **__: Any) -> list[Any]:
        self.rescues += 1
        return []


class _Submitter:
    is_waiting = False


def _claims(store: _Store, settings: Settings) -> Claims:
    settings = settings.model_copy(update={"lease_seconds": LEASE_SECONDS})
    return Claims(
        cast("ClaimStore", store),
        CatalogHolder(settings.catalog),
        cast("Submitter", _Submitter()),
        settings,
        leases=Leases(LEASE_SECONDS),
        lookups=Lookups(settings, cast("Any", None)),
    )


async def test_a_database_that_answers_is_looked_at_each_time(settings: Settings) -> None:
    store = _Store()
    claims = _claims(store, settings)
    for _ in range(3):
        await claims.rescue()
    assert store.rescues == 3


async def test_after_a_pause_of_the_database_nothing_is_taken_over_for_a_lease(
    settings: Settings,
) -> None:
    store = _Store()
    claims = _claims(store, settings)
    store.hangs_seconds = LEASE_SECONDS
    await claims.rescue()
    store.hangs_seconds = 0.0
    await claims.rescue()
    assert store.rescues == 0

    async def is_rescued() -> bool:
        await claims.rescue()
        return store.rescues > 0

    await eventually(is_rescued, within=5, what="what is left is taken over once its holders had time to write")
