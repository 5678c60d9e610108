"""Claims waiting generations as far as there is room, renews their leases, and gives back what was not sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from time import monotonic

import structlog

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records_dispatch import AccountRecord, ClaimedGeneration, Grant
from libs.common.database.stores.claiming import ClaimStore
from libs.common.errors import GenerationError
from libs.common.loops import Loop
from libs.common.settings import Settings
from services.dispatcher import limits
from services.dispatcher.leases import Leases
from services.dispatcher.lookups import Lookups
from services.dispatcher.outcomes import PATIENCE_SECONDS
from services.dispatcher.submit import Submitter

log = structlog.get_logger()
_RESCUE_LIMIT = 200
_FALL_BACK_LIMIT = 500
_RETRY_SECONDS = 0.05


class Claims:
    """The generations that this process holds.

    Args:
        store: of the claims.
        catalog: the provider accounts and their limits.
        submitter: processes each claimed generation.
        leases: are kept in step with what the database confirms.
        lookups: hold claims that need no place of those that submit.
        settings: how many, and how long.
    """

    def __init__(
        self,
        store: ClaimStore,
        catalog: CatalogHolder,
        submitter: Submitter,
        settings: Settings,
        *,
        leases: Leases,
        lookups: Lookups,
    ) -> None:
        self._store = store
        self._leases = leases
        self._lookups = lookups
        self._catalog = catalog
        self._submitter = submitter
        self._settings = settings
        self._held: dict[str, tuple[ClaimedGeneration, asyncio.Task[None]]] = {}
        self._by_provider: Counter[str] = Counter()
        self._crowded: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._rescue_from = 0.0
        self._looked_at = monotonic()
        self._retry: asyncio.TimerHandle | None = None
        self.claim_loop: Loop | None = None

    async def claim(self) -> bool:
        """Claim for every provider account what there is room for, within the account's limits.

        Nothing is claimed while outcomes wait for the database.
        """
        rooms = self._rooms()
        if not rooms or self._submitter.is_waiting:
            return False
        accounts: dict[str, AccountRecord] = {}
        grants: dict[str, Grant] = {}
        providers = self._catalog.current.providers

        def decide(account: AccountRecord) -> Grant:
            accounts[account.provider_id] = account
            made = limits.grant(account, providers[account.provider_id], rooms[account.provider_id])
            grants[account.provider_id] = made
            return made

        asked_at = monotonic()
        claimed = await self._store.claim(rooms, decide)
        if claimed:
            reach(CrashPoint.DISPATCHER_CLAIMED)
        metrics.CLAIMED.labels("generation").inc(len(claimed))
        for generation in claimed:
            self._hold(generation, asked_at)
        self._look_again(grants, Counter(generation.provider_id for generation in claimed))
        if rooms.keys() - grants.keys():
            self._retry_locked()
        return await self._fall_back(accounts)

    async def rescue(self) -> bool:
        """Take over what a dead dispatcher left behind."""
        if monotonic() < self._rescue_from or self._submitter.is_waiting:
            return False
        full = [provider_id for provider_id in self._catalog.current.providers if self._lookups.is_full(provider_id)]
        try:
            if not await self._has_answered():
                return False
            asked_at = monotonic()
            found = await self._store.rescue(_RESCUE_LIMIT, held=list(self._held), full=full)
        except GenerationError:
            self._give_time()
            raise
        metrics.CLAIMED.labels("rescue").inc(len(found))
        for generation in found:
            log.warning(
                "generation taken over", generation_id=generation.id, uncertain=bool(generation.open_submission_id)
            )
            self._hold(generation, asked_at)
        return len(found) == _RESCUE_LIMIT

    async def _has_answered(self) -> bool:
        """Whether the database has answered all the time since the last look, also where no statement has failed."""
        await self._store.look()
        before, self._looked_at = self._looked_at, monotonic()
        if self._looked_at - before <= self._settings.lease_seconds / 2:
            return True
        log.warning("the database did not answer for a while", seconds=round(self._looked_at - before, 1))
        self._give_time()
        return False

    def _give_time(self) -> None:
        """While the database is away all leases end. Their holders are given time to come back and write."""
        # Nobody looks until then.
        self._rescue_from = self._looked_at = monotonic() + self._settings.lease_seconds

    async def end_forgotten(self) -> bool:
        """Take what waits for a provider that the catalog does not have: its submit says why it cannot be."""
        if self._submitter.is_waiting:
            return False
        known = list(self._catalog.current.providers)
        asked_at = monotonic()
        found = await self._store.claim_forgotten(_RESCUE_LIMIT, known=known, patience_seconds=PATIENCE_SECONDS)
        for generation in found:
            self._hold(generation, asked_at)
        return len(found) == _RESCUE_LIMIT

    async def renew(self) -> bool:
        """Renew the leases of the claims that are held. One iteration of a loop."""
        claims = [generation.claim for generation, _ in self._held.values()]
        if claims:
            asked_at = monotonic()
            self._leases.renew(await self._store.renew(claims), asked_at=asked_at)
        return False

    def wake(self) -> None:
        """Look at the rows now."""
        if self.claim_loop is not None:
            self.claim_loop.wake()

    def cancel(self, generation_ids: Iterable[str]) -> None:
        """Put back those that are held and were not sent: their rows know whether they are cancelled."""
        for generation_id in generation_ids:
            held = self._held.get(generation_id)
            if held is None or not self._submitter.is_unsent(generation_id):
                continue
            generation, task = held
            task.cancel()
            ending = asyncio.create_task(self._submitter.put_back(generation))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def drain(self) -> None:
        """Let submits in progress end, and give back what was not sent. Lookups are left to other dispatchers."""
        self._lookups.stop()
        self.cancel(list(self._held))
        tasks = [*(task for _, task in self._held.values()), *self._ending]
        if tasks:
            log.info("waiting for submits under way", submits=len(tasks))
            renewing = Loop("drain", self.renew, interval_seconds=self._settings.lease_seconds / 3)
            renewing.start()
            await asyncio.wait(tasks, timeout=self._settings.submit_drain_seconds)
            await renewing.stop()
        left = [generation.claim for generation, _ in self._held.values()]
        for _, task in list(self._held.values()):
            task.cancel()
        if left:
            log.warning("submits cut off", generations=[claim.generation_id for claim in left])
            await self._store.give_back(left)

    def _rooms(self) -> dict[str, int]:
        free = self._settings.submit_concurrency - (len(self._held) - len(self._lookups))
        rooms = {
            provider.id: min(free, provider.limits.concurrent_submits - self._submitting(provider.id))
            for provider in self._catalog.current.providers.values()
            if not self._lookups.is_full(provider.id)
        }
        return {provider_id: room for provider_id, room in rooms.items() if room > 0}

    def _submitting(self, provider_id: str) -> int:
        return self._by_provider[provider_id] - self._lookups.waiting(provider_id)

    def _look_again(self, grants: Mapping[str, Grant], taken: Counter[str]) -> None:
        """Where all places were taken there may be more: the next that ends wakes the loop, or the next free token."""
        full = {provider_id for provider_id, grant in grants.items() if taken[provider_id] >= grant.places}
        self._crowded = {provider_id for provider_id in full if grants[provider_id].places > 0}
        providers = self._catalog.current.providers
        bound = [name for name in full if name in providers and grants[name].is_rate_bound]
        waits = [limits.seconds_to_next(providers[name]) for name in bound]
        soonest = min((wait for wait in waits if wait is not None), default=None)
        if soonest is not None and soonest < self._settings.sweep_seconds:
            asyncio.get_running_loop().call_later(soonest, self.wake)

    def _retry_locked(self) -> None:
        """Claim again soon: another dispatcher had locked accounts, and may leave some of what waits to this one."""
        if self._retry is not None:
            self._retry.cancel()
        self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self.wake)

    async def _fall_back(self, accounts: Mapping[str, AccountRecord]) -> bool:
        """Move on what waits for accounts that take nothing now, if it may go elsewhere."""
        providers = self._catalog.current.providers
        found = [
            limits.unavailable(account, providers[name]) for name, account in accounts.items() if name in providers
        ]
        stuck = [entry for entry in found if entry is not None]
        if not stuck:
            return False
        moved = await self._store.fall_back(stuck, _FALL_BACK_LIMIT)
        for generation_id, provider_id in moved.items():
            log.info("generation falls back", generation_id=generation_id, provider=provider_id)
        return bool(moved)

    def _hold(self, generation: ClaimedGeneration, asked_at: float) -> None:
        self._leases.begin(generation.claim, asked_at=asked_at)
        task = asyncio.create_task(self._submitter.process(generation), name=generation.id)
        self._held[generation.id] = (generation, task)
        self._by_provider[generation.provider_id] += 1
        task.add_done_callback(lambda done: self._release(generation, done))

    def _release(self, generation: ClaimedGeneration, task: asyncio.Task[None]) -> None:
        self._leases.end(generation.claim)
        held = self._held.get(generation.id)
        if held is not None and held[1] is task:
            del self._held[generation.id]
        self._by_provider[generation.provider_id] -= 1
        if not task.cancelled() and task.exception() is not None:
            # It is not held any more, so its lease ends by its time, and then it is taken over.
            log.error("submit failed", generation_id=generation.id, exc_info=task.exception())
        # What ends here for good has let the next of its batch go.
        if generation.provider_id in self._crowded or generation.batch_id is not None:
            self.wake()
