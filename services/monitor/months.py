"""Large tables lie by month: the next ones are made ahead of time, and what is too old is forgotten by the month."""

from __future__ import annotations

import structlog

from libs.common import metrics
from libs.common.database.stores.partitions import Forgotten, PartitionStore
from libs.common.settings import Settings
from services.monitor.retention import BATCH

log = structlog.get_logger()
AHEAD = 2


class Months:
    """Makes and forgets them.

    Args:
        store: of the partitions.
        settings: how long is kept what.
    """

    def __init__(self, store: PartitionStore, settings: Settings) -> None:
        self._store = store
        self._generation_days = settings.generation_days
        self._error_days = max(settings.error_warn_days, settings.error_error_days, settings.error_critical_days)

    async def turn(self) -> bool:
        """Make what is missing, forget one step of what is too old; whether there may be more. A turn of a loop."""
        made = await self._store.extend(AHEAD)
        if made:
            log.info("partitions made", partitions=made)
        for table, at in (await self._store.ends()).items():
            metrics.PARTITIONS_END.labels(table).set(at.timestamp())
        errors = await self._store.forget_errors(days=self._error_days, limit=BATCH)
        if self._generation_days is None:
            return _tell("errors", errors)
        generations = await self._store.forget_generations(days=self._generation_days, limit=BATCH)
        batches = await self._store.forget_batches(days=self._generation_days, limit=BATCH)
        more = [_tell("errors", errors), _tell("generations", generations), _tell("batches", Forgotten(batches))]
        return any(more)


def _tell(what: str, forgotten: Forgotten) -> bool:
    """Whether anything was forgotten, so that there may be more."""
    if forgotten.live_id is not None:
        log.warning("a month is kept, for one of it is under way", what=what, generation_id=forgotten.live_id)
    if forgotten.counted:
        log.warning("money at risk is counted as spent before it is forgotten", submissions=forgotten.counted)
    if forgotten.rows or forgotten.partitions:
        log.info("old rows forgotten", what=what, rows=forgotten.rows, partitions=forgotten.partitions)
    return bool(forgotten.rows or forgotten.partitions or forgotten.counted)
