"""How late the event loop runs what is due, and when what it reads after a pause may have come."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import ClassVar

from libs.common import metrics

INTERVAL_SECONDS = 0.05
_PAUSE_SECONDS = 0.5
_READ_SECONDS = 2.0
"""For so long after a pause what is read may have lain in a socket since it began."""


class LoopLag:
    """Measures the lag of this event loop, twenty times a second, from `start` to `stop`."""

    running: ClassVar[LoopLag | None] = None
    """The one of this process, while it measures."""

    def __init__(self) -> None:
        self._turned_at = monotonic()
        self._pause = (0.0, 0.0)
        self._stalled_seconds = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to measure."""
        LoopLag.running = self
        self._turned_at = monotonic()
        self._task = asyncio.create_task(self._run(), name="loop lag")

    async def stop(self) -> None:
        """Measure no more."""
        LoopLag.running = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def received_at(self) -> float:
        """Return since when what is read now may have been here, in seconds of the monotonic clock.

        That is now; while and shortly after the process, or its loop, stood still, it is when that began.
        """
        now = monotonic()
        if now - self._turned_at > _PAUSE_SECONDS:
            return self._turned_at
        began, ended = self._pause
        return began if now - ended < _READ_SECONDS else now

    def stalled_seconds(self) -> float:
        """Return how long the process, or its loop, stood still since `start`, in pauses of more than half a second."""
        lag_seconds = monotonic() - self._turned_at - INTERVAL_SECONDS
        return self._stalled_seconds + (lag_seconds if lag_seconds > _PAUSE_SECONDS else 0.0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            self._note(monotonic())

    def _note(self, now: float) -> None:
        lag_seconds = max(0.0, now - self._turned_at - INTERVAL_SECONDS)
        metrics.EVENT_LOOP_LAG_SECONDS.observe(lag_seconds)
        if lag_seconds > _PAUSE_SECONDS:
            self._pause = (self._turned_at, now)
            self._stalled_seconds += lag_seconds
        self._turned_at = now
