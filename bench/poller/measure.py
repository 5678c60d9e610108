"""What a contender takes: CPU and memory of its processes, statements of its database, and how late it is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*):")


@dataclass(slots=True)
class Usage:
    """Processes with their children: seconds of CPU since the start, and the most memory, in bytes."""

    pids: tuple[int, ...]
    started_cpu: float = 0.0
    peak_bytes: int = 0
    _seen: dict[int, float] = field(default_factory=dict)

    def start(self) -> None:
        """Count from now."""
        self.started_cpu = self._cpu()

    def look(self) -> None:
        """Take note of the memory now."""
        total = 0
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, total)
        self._cpu()

    @property
    def cpu_seconds(self) -> float:
        """CPU taken since the start."""
        return self._cpu() - self.started_cpu

    def _processes(self) -> Iterable[psutil.Process]:
        for pid in self.pids:
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                yield process
                yield from process.children(recursive=True)

    def _cpu(self) -> float:
        """CPU of all that were ever seen: one that has ended keeps what it took by the last look."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self._seen[process.pid] = times.user + times.system
        return sum(self._seen.values())


class StatementLog:
    """Counts the statements that Postgres logs, from a moment on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._from = 0

    def start(self) -> None:
        """Count from now."""
        self._from = self._path.stat().st_size

    def count(self) -> int:
        """How many statements were logged since, BEGIN and COMMIT among them."""
        with self._path.open(errors="replace") as file:
            file.seek(self._from)
            return len(_STATEMENT.findall(file.read()))


@dataclass(frozen=True, slots=True)
class Measured:
    """What a contender came to. `statements` None: it keeps nothing in Postgres."""

    name: str
    polls: int
    done: int
    seconds: float
    late_p50_seconds: float
    late_p99_seconds: float
    cpu_ms_per_poll: float
    server_cpu_ms_per_poll: float
    statements_per_poll: float | None
    peak_bytes: int
    bytes_per_10_000_tasks: float
    note: str = ""

    @property
    def polls_per_second(self) -> float:
        """From the first poll to the last."""
        return self.polls / self.seconds if self.seconds else 0.0
