"""What a contender came to: its figures, and the statements of its database."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*):")


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
