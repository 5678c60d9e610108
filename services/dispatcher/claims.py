"""Claims what waits as far as there is room, keeps the leases while it is under way, gives back what was not sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic

import structlog

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records import ClaimedGeneration
from libs.common.database.stores.dispatching import DispatchStore, Slots
from libs.common.errors import GenerationError
from libs.common.loops import Loop
from libs.common.settings import Settings
from services.dispatcher.outcomes import PATIENCE_SECONDS
from services.dispatcher.submit import Submitter

log = structlog.get_logger()
_RESCUE_LIMIT = 200


class Claims:
    """The generations that this process holds."""

    def __init__(self, store: DispatchStore, catalog: CatalogHolder, submitter: Submitter, settings: Settings) -> None:
        self._store = store
        self._catalog = catalog
        self._submitter = submitter
        self._settings = settings
        self._held: dict[str, tuple[ClaimedGeneration, asyncio.Task[None]]] = {}
        self._by_provider: Counter[str] = Counter()
        self._crowded: set[str] = set()
        self._rescue_from = 0.0
        self.claim_loop: Loop | None = None

    async def claim(self) -> bool:
        """Claim for every provider account what there is room for."""
        slots = self._slots()
        if not slots:
            return False
        claimed = await self._store.claim(slots)
        if claimed:
            reach(CrashPoint.DISPATCHER_CLAIMED)
        metrics.CLAIMED.labels("generation").inc(len(claimed))
        taken = Counter(generation.provider_id for generation in claimed)
        # Where every slot was taken there may be more: the next one that ends wakes the loop.
        self._crowded = {slot.provider_id for slot in slots if taken[slot.provider_id] >= slot.slots}
        for generation in claimed:
            self._hold(generation)
        return False

    async def rescue(self) -> bool:
        """Take over what a dead dispatcher left behind."""
        if monotonic() < self._rescue_from:
            return False
        try:
            found = await self._store.rescue(_RESCUE_LIMIT, held=list(self._held))
        except GenerationError:
            # While the database is away everybody's leases end. Their holders are given time to come back and write.
            self._rescue_from = monotonic() + self._settings.lease_seconds
            raise
        metrics.CLAIMED.labels("rescue").inc(len(found))
        for generation in found:
            log.warning(
                "generation taken over", generation_id=generation.id, uncertain=bool(generation.open_submission_id)
            )
            self._hold(generation)
        return len(found) == _RESCUE_LIMIT

    async def end_forgotten(self) -> bool:
        """Take what waits for a provider that the catalog does not have: its submit says why it cannot be."""
        known = list(self._catalog.current.providers)
        found = await self._store.claim_forgotten(_RESCUE_LIMIT, known=known, patience_seconds=PATIENCE_SECONDS)
        for generation in found:
            self._hold(generation)
        return len(found) == _RESCUE_LIMIT

    async def renew(self) -> bool:
        """Prolong the leases of all that is held."""
        if self._held:
            await self._store.renew(list(self._held))
        return False

    async def drain(self) -> None:
        """Let submits under way end, and give back what was not sent."""
        tasks = [task for _, task in self._held.values()]
        if tasks:
            log.info("waiting for submits under way", submits=len(tasks))
            renewing = Loop("drain", self.renew, interval_seconds=self._settings.lease_seconds / 3)
            renewing.start()
            await asyncio.wait(tasks, timeout=self._settings.submit_drain_seconds)
            await renewing.stop()
        left = list(self._held)
        for _, task in list(self._held.values()):
            task.cancel()
        if left:
            log.warning("submits cut off", generations=left)
            await self._store.give_back(left)

    def _slots(self) -> list[Slots]:
        free = self._settings.submit_concurrency - len(self._held)
        slots = []
        for provider in self._catalog.current.providers.values():
            room = min(free, provider.limits.concurrent_submits - self._by_provider[provider.id])
            if room > 0:
                slots.append(Slots(provider.id, room, provider.limits.concurrent_tasks))
        return slots

    def _hold(self, generation: ClaimedGeneration) -> None:
        task = asyncio.create_task(self._submitter.carry(generation), name=generation.id)
        self._held[generation.id] = (generation, task)
        self._by_provider[generation.provider_id] += 1
        task.add_done_callback(lambda done: self._release(generation, done))

    def _release(self, generation: ClaimedGeneration, task: asyncio.Task[None]) -> None:
        held = self._held.get(generation.id)
        if held is not None and held[1] is task:
            del self._held[generation.id]
        self._by_provider[generation.provider_id] -= 1
        if not task.cancelled() and task.exception() is not None:
            # Its lease ends by itself, and then it is taken over.
            log.error("submit failed", generation_id=generation.id, exc_info=task.exception())
        if generation.provider_id in self._crowded and self.claim_loop is not None:
            self.claim_loop.wake()
