"""What processes take: CPU and memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import psutil


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
