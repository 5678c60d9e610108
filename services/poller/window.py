"""What a process has claimed and not finished: bounded, spread over lanes, refilled in bulk."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from libs.common.loops import Loop

log = structlog.get_logger()
T = TypeVar("T")
DEPTH = 4
"""Rows claimed ahead for each place at work, so that one claim feeds many."""


class Window:
    """Runs claimed work, a bounded number at once in each lane (a provider account), and says what may be claimed."""

    def __init__(self) -> None:
        self._claimed: Counter[str] = Counter()
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict()
        self._sizes: dict[str, int] = {}
        self._full: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: set[str] = set()
        self.is_draining = False
        self.refill: Loop | None = None

    def room(self, lane: str, concurrency: int) -> int:
        """How many rows may be claimed for a lane with `concurrency` places; 0 until half of the last are done."""
        if self._sizes.get(lane) != concurrency:
            self._sizes[lane] = concurrency
            self._places[lane] = asyncio.Semaphore(concurrency)
        free = concurrency * DEPTH - self._claimed[lane]
        return free if free >= concurrency * DEPTH / 2 else 0

    def begin(
        self, lane: str, name: str, work: Callable[[], Awaitable[T]], finish: Callable[[T], Awaitable[object]]
    ) -> None:
        """Do a claimed piece of work once its lane has a place; `finish` it with what came out, off that place.

        `name` is one that no other piece of work has.
        """
        self._claimed[lane] += 1
        places = self._places[lane]

        async def run() -> None:
            async with places:
                if self.is_draining:
                    return
                self._busy.add(name)
                found = await work()
            await finish(found)

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(lane, name, done))

    def claimed(self, lane: str, count: int, room: int) -> None:
        """Note how a claim went: a lane that took all it had room for is refilled as soon as half of it is done."""
        (self._full.add if count >= room else self._full.discard)(lane)

    def __len__(self) -> int:
        return len(self._tasks)

    def stop(self) -> list[str]:
        """Begin nothing more. Answers the names of what is under way."""
        self.is_draining = True
        return sorted(self._busy)

    async def drain(self, timeout_seconds: float) -> None:
        """Let what is under way end; cut off what takes longer."""
        self.is_draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)
        for task in self._tasks:
            task.cancel()

    def _finished(self, lane: str, name: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._busy.discard(name)
        self._claimed[lane] -= 1
        if not task.cancelled() and task.exception() is not None:
            # Its lease ends by itself, and then it is claimed anew.
            log.error("claimed work failed", lane=lane, exc_info=task.exception())
        if lane in self._full and self.refill is not None and self.room(lane, self._sizes[lane]):
            self.refill.wake()
