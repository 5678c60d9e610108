"""Where contenders run, and how their processes are started."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sandbox.children import Child
from sandbox.plan import ROOT
from sandbox.postgres import Postgres
from sandbox.processes import free_port

_START_SECONDS = 180.0


class Unavailable(RuntimeError):
    """A contender cannot be run here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where contenders run: a folder, a Postgres server, and who is told."""

    folder: Path
    postgres: Postgres
    tell: Callable[[str], None]


@contextmanager
def place(folder: Path, console: Console, *, again: bool = False) -> Iterator[Place]:
    """A fresh folder with a Postgres that keeps what it is told; what is told is shown with the seconds it took.

    `again`: what the last run has left there is still there.
    """
    if not again:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def tell(words: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {words}", markup=False, soft_wrap=True)

    postgres = Postgres(folder / "postgres", free_port())
    postgres.start()
    try:
        yield Place(folder, postgres, tell)
    finally:
        postgres.stop()


def environment() -> dict[str, str]:
    """What every process needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "build/generated")])}


def wait_for(question: Callable[[], bool], child: Child) -> None:
    """Answer once `question` does. Unavailable where the process ends before, or it takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while not question():
        if child.exit_code is not None or time.monotonic() > deadline:
            raise Unavailable(f"{child.name} does not start. Its last lines:\n{child.tail}")
        time.sleep(0.05)
