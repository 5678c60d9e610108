"""A timeout for replies that may have arrived while this process stood still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libs.common.loop_lag import LoopLag

# A timer that fires this late shows that the process, or its event loop, was paused.
_STALL_SECONDS = 0.5
_GRACE_SECONDS = 1.0


class PatientDeadline:
    """A deadline that does not count the time in which the event loop was paused (a paused machine, SIGSTOP).

    A reply that came in time waits in the socket, or on its way, and is paid for.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._due = asyncio.get_running_loop().time() + seconds
        self._stalled_before_seconds = _stalled_seconds()
        self._late_seconds = 0.0

    @asynccontextmanager
    async def timeout(self) -> AsyncIterator[None]:
        """Raise TimeoutError where the block has not ended by the deadline."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None
        async with asyncio.timeout(None) as timeout:

            def look(planned_at: float) -> None:
                nonlocal timer
                now = loop.time()
                late_seconds = now - planned_at
                if late_seconds > _STALL_SECONDS:
                    self._late_seconds += late_seconds
                end_at = self._due + max(self._late_seconds, _stalled_seconds() - self._stalled_before_seconds)
                if late_seconds > _STALL_SECONDS:
                    end_at = max(end_at, now + _GRACE_SECONDS)
                if end_at <= now:
                    timeout.reschedule(now)
                else:
                    timer = loop.call_at(end_at, look, end_at)

            timer = loop.call_at(self._due, look, self._due)
            try:
                yield
            finally:
                if timer is not None:
                    timer.cancel()


def _stalled_seconds() -> float:
    return LoopLag.running.stalled_seconds() if LoopLag.running is not None else 0.0
