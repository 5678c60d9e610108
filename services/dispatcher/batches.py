"""Looks after batches: what has ended is counted, and what follows from it is done. One dispatcher at a time does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.database.records_batches import BatchTurn, EndedInBatch
from libs.common.database.states import State
from libs.common.database.stores.batch_progress import BatchProgressStore

log = structlog.get_logger()
# What is woken by every end of a generation must not turn for each of them.
_LEAST_SECONDS = 0.25
# So long something that may go has stood there before its account counts as full.
_PATIENCE_SECONDS = 1.0


class Batches:
    """Looks after all of them.

    Args:
        store: does it, in one transaction.
        catalog: the accounts there are.
        wake_claims: is called where something was released.
        cancel: is told of what a dispatcher has claimed and is to be cancelled.
    """

    def __init__(
        self,
        store: BatchProgressStore,
        catalog: CatalogHolder,
        *,
        wake_claims: Callable[[], None],
        cancel: Callable[[Sequence[str]], None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._wake_claims = wake_claims
        self._cancel = cancel
        self._last_turn = float("-inf")

    async def look_after(self) -> bool:
        """One iteration of a loop. Returns whether another should follow at once."""
        pause = self._last_turn + _LEAST_SECONDS - monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        self._last_turn = monotonic()
        turn = await self._store.look_after(list(self._catalog.current.providers), patience_seconds=_PATIENCE_SECONDS)
        self._tell(turn)
        if turn.released or turn.made_way:
            self._wake_claims()
        if turn.cancelling:
            self._cancel(turn.cancelling)
        return turn.has_more

    async def forget(self) -> bool:
        """Remove what nobody needs any more, and count what is open. One iteration of a loop."""
        await self._store.forget()
        metrics.BATCHES_OPEN.set(await self._store.open_batches())
        return False

    def _tell(self, turn: BatchTurn) -> None:
        metrics.BATCH_PLACES.labels("free").inc(turn.released)
        metrics.BATCH_PLACES.labels("made_way").inc(turn.made_way)
        for generation in turn.ended:
            _count(generation)
        if turn.ended:
            log.info("generations of batches ended before they began", generations=len(turn.ended))
        for content in turn.closed:
            status = str(content["status"])
            metrics.BATCHES_ENDED.labels(status).inc()
            metrics.BATCH_SECONDS.labels(status).observe(content["seconds"])
            log.info("batch ended", **content)


def _count(generation: EndedInBatch) -> None:
    metrics.count_end(
        generation.model_identifier, generation.provider_id, State.CANCELLED, generation.code, generation.seconds
    )
