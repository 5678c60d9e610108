"""Background loops: woken or by the clock, they outlive every failure of one turn, and tell when they are stuck."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from time import monotonic, time

import structlog

from libs.common import metrics
from libs.common.errors import NOT_ANSWERED, GenerationError

log = structlog.get_logger()

Turn = Callable[[], Awaitable[bool]]
"""One turn; answers whether there is more to do at once."""

FAILURE_PAUSE_SECONDS = 1.0
"""The shortest pause after a failure."""
_STALL_SECONDS = 30.0
_TELL_SECONDS = 30.0


class Loop:
    """Runs `turn` over and over.

    Args:
        name: for logs, metrics and readiness.
        turn: does one turn's work.
        interval_seconds: the pause after a turn that found nothing more to do; `wake` cuts it short.
        stall_seconds: without a turn that got through for so long, the loop counts as stuck. None: three pauses, and
            at least 30 s.
    """

    def __init__(self, name: str, turn: Turn, *, interval_seconds: float, stall_seconds: float | None = None) -> None:
        self.name = name
        self._turn = turn
        self._interval_seconds = interval_seconds
        self._stall_seconds = max(_STALL_SECONDS, 3 * interval_seconds) if stall_seconds is None else stall_seconds
        self._wake = asyncio.Event()
        self._stopping = False
        self._last_success = monotonic()
        self._task: asyncio.Task[None] | None = None
        self._told_at: float | None = None
        self._turning_since: float | None = None

    def start(self) -> None:
        """Begin to turn."""
        self._last_success = monotonic()
        self._task = asyncio.create_task(self._run(), name=f"loop:{self.name}")

    def wake(self) -> None:
        """Turn now, or once more after the present turn."""
        self._wake.set()

    async def stop(self, timeout_seconds: float = 10.0) -> None:
        """Let the present turn end, and turn no more. A turn that takes too long is cut off."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, timeout_seconds)

    async def fault(self) -> str | None:
        """Why the loop is not well, or None."""
        if self.has_died:
            return f"loop {self.name} has died"
        silent = monotonic() - self._last_success
        return f"loop {self.name} is stuck for {silent:.0f} s" if silent > self._stall_seconds else None

    @property
    def has_died(self) -> bool:
        """Whether it will never turn again, without having been told to stop."""
        return self._task is not None and self._task.done() and not self._stopping

    @property
    def turning_seconds(self) -> float:
        """For how long the present turn has gone on; 0 between two."""
        return 0.0 if self._turning_since is None else monotonic() - self._turning_since

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            pause = self._interval_seconds
            self._turning_since = monotonic()
            try:
                if await self._turn():
                    pause = 0.0
                self._last_success = monotonic()
                self._told_at = None
                metrics.LOOP_LAST_SUCCESS.labels(self.name).set(time())
                metrics.LOOP_ITERATIONS.labels(self.name, "success").inc()
            except Exception as error:
                pause = max(pause, FAILURE_PAUSE_SECONDS)
                metrics.LOOP_ITERATIONS.labels(self.name, "failure").inc()
                self._tell(error)
            self._turning_since = None
            await self._pause(pause)

    def _tell(self, error: Exception) -> None:
        """Say why a turn failed: the first in a row, and then now and again."""
        if self._told_at is not None and monotonic() - self._told_at < _TELL_SECONDS:
            return
        self._told_at = monotonic()
        if isinstance(error, GenerationError) and error.code in NOT_ANSWERED:
            log.warning("loop waits for the database", loop=self.name, error=error)
        else:
            log.error("loop turn failed", loop=self.name, error=error, exc_info=error)

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)
