"""Adds up what happens in experiments, in the background and for who asks for results."""

from __future__ import annotations

from libs.common import metrics
from libs.common.database.stores.experiment_measures import MeasureStore

_LINES = 5_000
# Who asks waits for so much at most; the background goes on.
_TURNS = 4


class Measuring:
    """Folds the ledger."""

    def __init__(self, store: MeasureStore) -> None:
        self._store = store

    async def fold(self) -> bool:
        """One turn; whether there may be more."""
        return await self._fold(waits=False)

    async def catch_up(self) -> None:
        """Add up what there is by now, or wait until it is."""
        for _ in range(_TURNS):
            if not await self._fold(waits=True):
                return

    async def _fold(self, *, waits: bool) -> bool:
        number = await self._store.fold(_LINES, waits=waits)
        metrics.EXPERIMENT_LINES.inc(number)
        return number == _LINES
