"""A bounded number of places that owners take in fair turns."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairPlaces:
    """Places, each held by one piece of work.

    A place that becomes free goes to the owner that holds the fewest; of several such, to the one whose last turn was
    longest ago. Each owner's own work goes in its order. Use it on one event loop.

    Args:
        count: how many places there are.
        share: how many of them one owner may hold at most; None: all. An empty owner has no share.
    """

    def __init__(self, count: int, *, share: int | None = None) -> None:
        self._free = count
        self._share = count if share is None else share
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        # Of those that hold or wait: when they had their last turn, counted in turns.
        self._last: dict[str, int] = {}
        self._turns = 0

    @asynccontextmanager
    async def place(self, owner: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it for the block."""
        await self._take(owner)
        try:
            yield
        finally:
            self._give_back(owner)

    async def _take(self, owner: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        self._grant()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(owner)
            else:
                self._forget(owner, turn)
            raise

    def _forget(self, owner: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(owner, deque())
        if turn in waiting:
            waiting.remove(turn)
            if not waiting:
                del self._waiting[owner]
                self._forget_idle(owner)

    def _give_back(self, owner: str) -> None:
        self._free += 1
        self._held[owner] -= 1
        if not self._held[owner]:
            del self._held[owner]
        self._forget_idle(owner)
        self._grant()

    def _forget_idle(self, owner: str) -> None:
        if owner not in self._held and owner not in self._waiting:
            self._last.pop(owner, None)

    def _grant(self) -> None:
        while self._free and (owner := self._next()) is not None:
            turns = self._waiting[owner]
            turn = turns.popleft()
            if not turns:
                del self._waiting[owner]
            if turn.cancelled():
                continue
            self._turns += 1
            self._last[owner] = self._turns
            self._free -= 1
            self._held[owner] += 1
            turn.set_result(None)

    def _next(self) -> str | None:
        allowed = (owner for owner in self._waiting if not owner or self._held[owner] < self._share)
        return min(allowed, key=lambda owner: (self._held[owner], self._last.get(owner, 0)), default=None)
