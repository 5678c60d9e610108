"""How long what a killed process held stays with it, until another takes it over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from chaos.rows import rows
from libs.common.database.engine import Database
from libs.common.errors import GenerationError

_LOOK_SECONDS = 0.2
_HELD = """
SELECT 'generation ' || id AS name FROM generation_requests WHERE split_part(lease_owner, ':', 3) = :pid
UNION ALL
SELECT 'task ' || provider_id || ' ' || task_id FROM poll_tasks
WHERE split_part(lease_owner, ':', 3) = :pid AND ended_at IS NULL"""


class Recovery:
    """Measures how long rows of killed processes wait for another process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._following: set[asyncio.Task[None]] = set()
        self.seconds: list[float] = []
        """For each row that a killed process held: until it was somebody else's, or nobody's."""
        self.ready_seconds: list[float] = []
        """For each part beside our processes that was away: from its return until every service was ready."""

    def follow(self, pid: int) -> None:
        """A process was killed now."""
        self._keep(asyncio.create_task(self._follow(str(pid), time.monotonic())))

    def follow_readiness(self, is_ready: Callable[[], Awaitable[bool]]) -> None:
        """A part is back now."""
        self._keep(asyncio.create_task(self._wait_until_ready(is_ready, time.monotonic())))

    async def close(self) -> None:
        """Forget those that are still followed."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _held(self, pid: str) -> set[str]:
        while True:
            try:
                return {row["name"] for row in await rows(self._database, _HELD, pid=pid)}
            except GenerationError:
                await asyncio.sleep(_LOOK_SECONDS)

    async def _follow(self, pid: str, killed_at: float) -> None:
        left = await self._held(pid)
        while left:
            await asyncio.sleep(_LOOK_SECONDS)
            held = await self._held(pid)
            self.seconds += [time.monotonic() - killed_at] * len(left - held)
            left &= held

    async def _wait_until_ready(self, is_ready: Callable[[], Awaitable[bool]], back_at: float) -> None:
        while True:
            if await is_ready():
                self.ready_seconds.append(time.monotonic() - back_at)
                return
            await asyncio.sleep(_LOOK_SECONDS)
