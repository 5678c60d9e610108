"""A limit of concurrent work that can change while work is in progress."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class Places:
    """Admits at most `limit` holders at once, in the order of their requests: `async with places`.

    Args:
        limit: how many hold a place at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, limit: int) -> None:
        """Change the limit. Holders above a smaller limit keep their places; none is given until enough have left."""
        self._limit = limit
        self._admit()

    async def __aenter__(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            # The place may have been given in the same moment.
            if not place.cancelled():
                self._leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken < self._limit:
            place = self._waiting.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(None)
