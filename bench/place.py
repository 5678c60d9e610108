"""Where contenders run, and how their processes are started."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.children import Child
from sandbox.plan import ROOT
from sandbox.postgres import Postgres

_START_SECONDS = 180.0


class Unavailable(RuntimeError):
    """A contender cannot be run here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where contenders run: a folder, a Postgres server, and who is told."""

    folder: Path
    postgres: Postgres
    tell: Callable[[str], None]


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
