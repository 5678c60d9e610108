"""The work that a process has claimed and not finished: bounded, divided into lanes, refilled in bulk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from libs.common.database.records import Lease
from libs.common.loops import Loop
from services.poller.places import Places

log = structlog.get_logger()
T = TypeVar("T")
DEPTH = 4
"""Rows claimed ahead for each place of a lane, so that one claim feeds many."""


class Window:
    """Runs claimed work, a bounded number at once in each lane (a provider account), and says what may be claimed.

    A claim is held from `begin` until its work has ended, in whatever way, or while it is `held`.
    """

    def __init__(self) -> None:
        self._claimed: Counter[str] = Counter()
        self._places: dict[str, Places] = {}
        self._sizes: dict[str, int] = {}
        self._full: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: set[Lease] = set()
        self._begun: set[Lease] = set()
        self.is_draining = False
        self.refill: Loop | None = None

    def room(self, lane: str, concurrency: int) -> int:
        """How many rows may be claimed for a lane with `concurrency` places; 0 until half of the last are done."""
        if lane not in self._places:
            self._places[lane] = Places(concurrency)
        elif self._sizes[lane] != concurrency:
            self._places[lane].resize(concurrency)
        self._sizes[lane] = concurrency
        free = concurrency * DEPTH - self._claimed[lane]
        return free if free >= concurrency * DEPTH / 2 else 0

    def begin(
        self, lane: str, claim: Lease, work: Callable[[], Awaitable[T]], finish: Callable[[T], Awaitable[object]]
    ) -> None:
        """Do claimed work once its lane has a place, then call `finish` with the result without holding the place."""
        self._claimed[lane] += 1
        self._held.add(claim)
        places = self._places[lane]

        async def run() -> None:
            async with places:
                if self.is_draining:
                    return
                self._begun.add(claim)
                found = await work()
            await finish(found)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(lane, claim, done))

    async def attend(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` outside of the lanes. It runs to its end even if its caller is cancelled; a stop waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    @contextmanager
    def holding(self, claim: Lease) -> Iterator[None]:
        """Hold a claim whose work is done outside of the lanes."""
        self._held.add(claim)
        self._begun.add(claim)
        try:
            yield
        finally:
            self._let_go(claim)

    def held(self) -> list[Lease]:
        """The claims that this process holds."""
        return sorted(self._held)

    def claimed(self, lane: str, count: int, room: int) -> None:
        """Record the size of a claim. A lane that was filled is refilled as soon as half of its work is done."""
        (self._full.add if count >= room else self._full.discard)(lane)

    def __len__(self) -> int:
        return len(self._tasks)

    def stop(self) -> list[Lease]:
        """Begin no more work. Returns the claims whose work has not begun."""
        self.is_draining = True
        return sorted(self._held - self._begun)

    async def drain(self, timeout_seconds: float) -> list[Lease]:
        """Wait for work in progress to end. Work that takes longer is cancelled, and its claims are returned."""
        self.is_draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        left = self.held()
        for task in self._tasks:
            task.cancel()
        return left

    def _finished(self, lane: str, claim: Lease, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._let_go(claim)
        self._claimed[lane] -= 1
        if not task.cancelled() and task.exception() is not None:
            # The claim is no longer held: its lease expires, and the row is claimed again.
            log.error("claimed work failed", lane=lane, exc_info=task.exception())
        if lane in self._full and self.refill is not None and self.room(lane, self._sizes[lane]):
            self.refill.wake()

    def _let_go(self, claim: Lease) -> None:
        self._held.discard(claim)
        self._begun.discard(claim)
