"""Money at risk that nobody resolved in time is counted as spent."""

from __future__ import annotations

import structlog

from libs.common.database.stores.billing import CHUNK, BillingStore

log = structlog.get_logger()


class AtRisk:
    """Counts it.

    Args:
        store: of submissions' money.
        days: after how many days money at risk is counted as spent.
    """

    def __init__(self, store: BillingStore, days: int) -> None:
        self._store = store
        self._days = days

    async def count(self) -> bool:
        """Count one chunk of what is old enough; whether there may be more. A turn of a loop.

        Replicas may do it at once: each counts others.
        """
        number, usd = await self._store.count_old(days=self._days, limit=CHUNK)
        if number:
            log.warning("money at risk is counted as spent", submissions=number, usd=round(usd, 6), days=self._days)
        return number == CHUNK
