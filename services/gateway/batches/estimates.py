"""What is known for estimates: how models did in the last week, and what accounts have before them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from libs.common.database.states import State
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.database.stores.statistics import Count, Segment, StatisticsStore, percentile
from services.gateway.batches.tally import Knowledge, Observed, Queued

_DAYS = 7
_FRESH_SECONDS = 5.0
_MEDIAN = 0.5


class Estimates:
    """Knows.

    Args:
        statistics: what the monitor has added up; without it everything is guessed by the kind of media.
        queue: what waits.
        now: the time of day.
    """

    def __init__(
        self,
        statistics: StatisticsStore,
        queue: DispatchStore,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._statistics = statistics
        self._queue = queue
        self._now = now
        self._known: Knowledge | None = None
        self._known_until = 0.0

    async def knowledge(self) -> Knowledge:
        """What is known, a few seconds old at the most."""
        if self._known is None or monotonic() > self._known_until:
            self._known = Knowledge(await self._observed(), await self._queued())
            self._known_until = monotonic() + _FRESH_SECONDS
        return self._known

    async def _observed(self) -> dict[str, Observed]:
        now = self._now()
        today = now.replace(hour=0, minute=0, second=0, microsecond=0)
        counts = await self._statistics.read([Segment("day", today - timedelta(days=_DAYS), now)])
        by_model: defaultdict[str, list[Count]] = defaultdict(list)
        for count in counts:
            if count.kind == "generation_ended" and count.outcome != State.CANCELLED:
                by_model[count.model_identifier].append(count)
        return {model: _observed_of(found) for model, found in by_model.items()}

    async def _queued(self) -> dict[str, Queued]:
        return {
            record.provider_id: Queued(record.pending, record.dispatching + record.processing)
            for record in await self._queue.queue()
        }


def _observed_of(counts: list[Count]) -> Observed:
    succeeded = [count for count in counts if count.outcome == State.SUCCESS]
    return Observed(
        ended=sum(count.count for count in counts),
        succeeded=sum(count.count for count in succeeded),
        seconds=percentile(succeeded, _MEDIAN),
    )
