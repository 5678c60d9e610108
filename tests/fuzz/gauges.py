"""What is measured beside the answers: lag of the gateway's event loop and of an idle one, memory, rows, errors."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from libs.common.database.engine import Database
from libs.common.loop_lag import INTERVAL_SECONDS
from tests.support.rows import rows
from tests.support.running import Running

LAG_LIMIT_SECONDS = 0.2
_LAG = "darkroom_event_loop_lag_seconds"
_COUNT = re.compile(rf"^{_LAG}_count (\S+)$", re.MULTILINE)
_TIMELY = re.compile(rf'^{_LAG}_bucket{{le="{LAG_LIMIT_SECONDS}"}} (\S+)$', re.MULTILINE)


@dataclass
class Lag:
    """How late a loop was: how many samples there are, and how many of them were above the limit."""

    samples: float = 0.0
    late: float = 0.0

    def __sub__(self, earlier: Lag) -> Lag:
        return Lag(self.samples - earlier.samples, self.late - earlier.late)


@dataclass
class Idle:
    """A process with an idle event loop on the same machine: how late it is, is the machine's own noise."""

    lag: Lag = field(default_factory=Lag)
    worst_seconds: float = 0.0

    def take(self, line: str) -> None:
        """Note one sample."""
        seconds = float(line)
        self.lag.samples += 1
        self.lag.late += seconds > LAG_LIMIT_SECONDS
        self.worst_seconds = max(self.worst_seconds, seconds)


class Gauges:
    """Looks at a running stack.

    Args:
        running: the stack.
        database: its database.
        idle: the idle loop beside it.
    """

    def __init__(self, running: Running, database: Database, idle: Idle) -> None:
        self._running, self._database, self.idle = running, database, idle
        child = running.stack.children["gateway"]
        assert child.pid is not None
        self._process = psutil.Process(child.pid)

    async def lag(self) -> Lag:
        """The lag of the gateway's loop since its start."""
        url = f"http://127.0.0.1:{self._running.stack.plan.ports.metrics['gateway']}/metrics"
        # Not all metrics, which takes the gateway a tenth of a second.
        names = [("name[]", f"{_LAG}_{part}") for part in ("bucket", "count")]
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, params=names, raise_for_status=True) as reply,
        ):
            text = await reply.text()
        # Both from one look, or what comes between two would count as late.
        samples, timely = _COUNT.search(text), _TIMELY.search(text)
        assert samples is not None
        assert timely is not None
        return Lag(float(samples[1]), float(samples[1]) - float(timely[1]))

    def waited_seconds(self) -> float:
        """How long the thread of the gateway's loop was ready and had no processor, since its start.

        Source: Documentation/scheduler/sched-stats.rst of Linux. 0 where the kernel does not count that.
        """
        with contextlib.suppress(OSError, IndexError, ValueError):
            pid = self._process.pid
            return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
        return 0.0

    def memory_bytes(self) -> int:
        """The resident memory of the gateway without its image workers."""
        return int(self._process.memory_info().rss)

    def is_alive(self) -> bool:
        """Whether the gateway is the process that it was at the beginning."""
        child = self._running.stack.children["gateway"]
        return child.exit_code is None and child.pid == self._process.pid

    async def created_by(self, request_ids: Sequence[str]) -> list[str]:
        """The ids of those requests that have left a generation or a batch."""
        found = await rows(
            self._database,
            "SELECT request_id FROM generation_requests WHERE request_id = ANY(:ids) "
            "UNION SELECT request_id FROM generation_batches WHERE request_id = ANY(:ids)",
            ids=list(request_ids),
        )
        return [str(row["request_id"]) for row in found]

    async def counted(self, sql: str, **values: Any) -> int:
        """The number that a query counts."""
        (row,) = await rows(self._database, sql, **values)
        return int(row["number"])

    async def now(self) -> datetime:
        """The database's clock."""
        (row,) = await rows(self._database, "SELECT now() AS at")
        found: datetime = row["at"]
        return found

    async def errors(self, since: datetime) -> list[dict[str, Any]]:
        """What services have reported as errors since then, by what it says; without the failures of providers."""
        return await rows(
            self._database,
            "SELECT g.source, g.code, g.message, count(*) AS number, min(l.request_id) AS request_id, min(l.stack) AS stack "
            "FROM error_logs l JOIN error_groups g ON g.id = l.group_id WHERE l.level IN ('ERROR', 'CRITICAL') "
            "AND l.created_at > :since AND l.source NOT LIKE 'adapter:%' "
            "GROUP BY g.source, g.code, g.message",
            since=since,
        )


@asynccontextmanager
async def idle_loop() -> AsyncIterator[Idle]:
    """An idle event loop in a process of its own, measured as services measure theirs."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fuzz.gauges", stdout=asyncio.subprocess.PIPE
    )
    found = Idle()

    async def read() -> None:
        assert child.stdout is not None
        async for line in child.stdout:
            found.take(line.decode())

    reading = asyncio.create_task(read())
    try:
        yield found
    finally:
        reading.cancel()
        child.kill()
        await child.wait()
        await asyncio.gather(reading, return_exceptions=True)


async def _measure() -> None:
    before = time.monotonic()
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        now = time.monotonic()
        print(f"{max(0.0, now - before - INTERVAL_SECONDS):.6f}", flush=True)
        before = now


if __name__ == "__main__":
    import uvloop

    uvloop.run(_measure())
