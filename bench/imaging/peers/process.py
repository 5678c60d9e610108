"""How a contender in Python is driven: warm up, say so, begin when told, say when done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.imaging.work import Work
from libs.common.imaging.capacity import cores


def drive(work: Work, whole: Callable[[Iterable[int]], None]) -> None:
    """Do the first file to warm up, then all of them once there is a line on standard input."""
    Path(work.output).mkdir(parents=True, exist_ok=True)
    whole(range(min(2, len(work.files))))
    print("ready", flush=True)
    sys.stdin.readline()
    whole(range(len(work.files)))
    print("done", flush=True)


def in_threads(one: Callable[[int], None]) -> Callable[[Iterable[int]], None]:
    """All files, one on each processor at a time."""
    pool = ThreadPoolExecutor(cores())

    def whole(indexes: Iterable[int]) -> None:
        for _ in pool.map(one, indexes):
            pass

    return whole
