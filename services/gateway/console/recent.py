"""What several pages want at once is asked once, and is good for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """One answer for all who ask within so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._asking: asyncio.Future[T] | None = None
        self._asked_at = float("-inf")

    async def get(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer; whoever comes while it is asked for waits for the same. Raises as `ask` does."""
        is_old = time.monotonic() - self._asked_at > self._seconds
        if self._asking is None or (self._asking.done() and (is_old or self._asking.exception() is not None)):
            self._asked_at = time.monotonic()
            self._asking = asyncio.ensure_future(ask())
        return await asyncio.shield(self._asking)
