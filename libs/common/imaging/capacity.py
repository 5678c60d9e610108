"""How many workers, and how large ones, this process may start: what its control group leaves, not the machine's size.

Source: the kernel's admin-guide/cgroup-v2.rst (cpu.max, memory.max), scheduler/sched-bwc.rst and
cgroup-v1/memory.rst.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger()
# Of a container's memory: for the service itself, with all that it keeps in memory.
_SERVICE_BYTES = 512_000_000
# A worker with less could decode hardly anything.
_LEAST_BYTES = 400_000_000
_GROUPS, _OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The limits of the control groups that a process is in.

    `groups`: where they are mounted; `of_process`: the file that names those of the process.
    """

    groups: Path = _GROUPS
    of_process: Path = _OF_PROCESS

    def processors(self) -> float | None:
        """How many processors' time it may use; None where that has no limit."""
        return self._least("cpu", {"cpu.max": _cpu_max, "cpu.cfs_quota_us": _cfs_quota})

    def memory_bytes(self) -> float | None:
        """How much memory it may use, swap not counted; None where that has no limit."""
        return self._least("memory", {"memory.max": _number, "memory.limit_in_bytes": _number})

    def _least(self, controller: str, files: dict[str, Callable[[Path], float | None]]) -> float | None:
        """The lowest limit of the group and of those that it lies in."""
        found = []
        for group in self._of_controller(controller):
            for name, read in files.items():
                try:
                    limit = read(group / name)
                except (OSError, ValueError):
                    continue
                if limit is not None:
                    found.append(limit)
        return min(found, default=None)

    def _of_controller(self, controller: str) -> Iterator[Path]:
        try:
            lines = self.of_process.read_text().splitlines()
        except OSError:
            return
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            # In a container, the path may be one of the machine; its own group is then the root that it sees.
            mount = self.groups / controllers if controllers else self.groups
            group = mount / path.lstrip("/")
            yield from (one for one in (group, *group.parents) if one.is_relative_to(mount))


def _cpu_max(path: Path) -> float | None:
    quota, period = path.read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _cfs_quota(path: Path) -> float | None:
    quota = int(path.read_text())
    return quota / int((path.parent / "cpu.cfs_period_us").read_text()) if quota > 0 else None


def _number(path: Path) -> float | None:
    text = path.read_text().strip()
    return None if text == "max" else int(text)


def cores(group: ControlGroup | None = None) -> int:
    """How many processors this process may use, at least one: by its affinity, and by its control group's quota."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = (group or ControlGroup()).processors()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def fitting(workers: int, memory_bytes: int, group: ControlGroup | None = None) -> tuple[int, int]:
    """How many workers to have, and the address space of each in bytes, so that all fit beside the service.

    Args:
        workers: how many are wanted; 0: as many as there are processors, or as have room.
        memory_bytes: how much each is to have; less where even one has not so much room.
        group: the control group; None: that of this process.
    """
    group = group or ControlGroup()
    limit = group.memory_bytes()
    room = math.inf if limit is None else limit - _SERVICE_BYTES
    count = workers or max(1, min(cores(group), int(min(room, sys.maxsize)) // memory_bytes))
    each = max(_LEAST_BYTES, int(min(memory_bytes, room / count)))
    if each < memory_bytes:
        log.warning("image workers get less memory than is set", workers=count, bytes_each=each, bytes_set=memory_bytes)
    return count, each
