"""Work that many ask for at once is done once, and what it gave is kept while there is room."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from cachetools import TLRUCache

from libs.common import metrics

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Shared(Generic[K, V]):
    """Results by key.

    Args:
        name: what metrics call it.
        limit_bytes: how much is kept; what was used longest ago makes room.
        size_of: how many bytes a result has.
        seconds: how long a result is kept.
    """

    def __init__(self, name: str, *, limit_bytes: int, size_of: Callable[[V], int], seconds: float) -> None:
        self._name = name
        self._limit_bytes = limit_bytes
        self._size_of = size_of
        self._kept: TLRUCache[K, V] = TLRUCache(
            limit_bytes, ttu=lambda _key, _value, now: now + seconds, getsizeof=size_of
        )
        self._under_way: dict[K, asyncio.Task[V]] = {}
        self._waiting: Counter[asyncio.Task[V]] = Counter()

    async def get(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        """The result for `key`: kept, under way already, or made now. Raises what `make` raises, to all who wait.

        The task is cancelled when all callers that waited for it are.
        """
        kept = self._kept.get(key)
        if kept is not None:
            metrics.IMAGES_REUSED.labels(self._name).inc()
            return kept
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.ensure_future(self._made(key, make))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        else:
            metrics.IMAGES_REUSED.labels(self._name).inc()
        self._waiting[task] += 1
        try:
            # The cancellation of one caller must not cancel the task that others wait for.
            return await asyncio.shield(task)
        finally:
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]
                self._abandon(key, task)

    async def _made(self, key: K, make: Callable[[], Awaitable[V]]) -> V:
        value = await make()
        if self._size_of(value) <= self._limit_bytes:
            self._kept[key] = value
        return value

    def _abandon(self, key: K, task: asyncio.Task[V]) -> None:
        if task.cancel():
            # The next caller must start a new task instead of waiting for one that is being cancelled.
            self._under_way.pop(key, None)

    def _ended(self, key: K, task: asyncio.Task[V]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
        if not task.cancelled():
            # Looked at here, for all who waited may have gone.
            task.exception()

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
