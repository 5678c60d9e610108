"""Each process says every few seconds that it runs and what it uses, and hears how loud it is to log."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import cast

import psutil
import structlog

from libs.common import VERSION, logging
from libs.common.database.engine import Database
from libs.common.database.records_monitor import Heartbeat
from libs.common.database.stores.instances import InstanceStore
from libs.common.errors import GenerationError
from libs.common.settings import LogLevel, ServiceName

log = structlog.get_logger()


class Heart:
    """Beats.

    Args:
        database: where processes are listed.
        service: what this process is.
        owner: its name.
        level: what it logs unless somebody wants it otherwise.
        is_ready: whether it serves.
    """

    def __init__(
        self, database: Database, service: ServiceName, owner: str, level: LogLevel, is_ready: Callable[[], bool]
    ) -> None:
        self._store = InstanceStore(database)
        self._service = service
        self._owner = owner
        self._own_level = self._level = level
        self._is_ready = is_ready
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._cpu_percent = 0.0
        self._measured_at = self._started = monotonic()

    async def beat(self) -> bool:
        """One turn of a loop."""
        wanted = await self._store.beat(
            Heartbeat(
                owner=self._owner,
                service=self._service,
                version=VERSION,
                is_ready=self._is_ready(),
                resident_bytes=self._process.memory_info().rss,
                cpu_percent=self._use(),
                age_seconds=monotonic() - self._started,
            )
        )
        level = cast("LogLevel", wanted or self._own_level)
        if level != self._level:
            if logging.LEVELS[level] < logging.LEVELS[self._level]:
                logging.set_level(level)
            # While the lower of the two holds, so that the line is there.
            log.info("log level changed", log_level=level, before=self._level)
            logging.set_level(level)
            self._level = level
        return False

    def _use(self) -> float:
        """The share of one core since the last time; what was found then, where that is too short ago to tell."""
        if monotonic() - self._measured_at >= 1:
            self._cpu_percent, self._measured_at = self._process.cpu_percent(), monotonic()
        return self._cpu_percent

    async def close(self) -> None:
        """Say that it runs no more; where the database is away, its silence says so."""
        try:
            await self._store.leave(self._owner)
        except GenerationError as error:
            log.debug("left without a word", error=error)
