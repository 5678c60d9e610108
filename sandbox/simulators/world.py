"""What the simulated vendors remember, on disk, so that they survive a restart: tasks, and the ledger of bills."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sandbox.simulators.behaviour import Behaviour, Chance

_SCHEMA = """
CREATE TABLE IF NOT EXISTS bills (
    vendor TEXT NOT NULL, task_id TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    outputs INTEGER NOT NULL, price_usd REAL NOT NULL, billed_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY, vendor TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    request TEXT NOT NULL, behaviour TEXT NOT NULL, created_at REAL NOT NULL, ready_at REAL NOT NULL,
    checks INTEGER NOT NULL, cancelled INTEGER NOT NULL DEFAULT 0, client_id TEXT);
CREATE INDEX IF NOT EXISTS tasks_by_ready ON tasks (ready_at, vendor);
CREATE INDEX IF NOT EXISTS tasks_by_creation ON tasks (vendor, created_at);
CREATE INDEX IF NOT EXISTS tasks_by_client_id ON tasks (vendor, client_id) WHERE client_id IS NOT NULL;
"""
_ALL = "all"
_PROMPTS_WITH_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Bill:
    """One accepted submit, as the vendor would bill it. `billed_at` in Unix seconds."""

    vendor: str
    task_id: str
    model: str
    prompt: str
    outputs: int
    price_usd: float
    billed_at: float


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """An asynchronous task. Times in Unix seconds."""

    task_id: str
    vendor: str
    model: str
    prompt: str
    request: dict[str, Any]
    behaviour: Behaviour
    created_at: float
    ready_at: float
    checks: int
    cancelled: bool
    client_id: str | None


class World:
    """The vendors' memory.

    Args:
        path: of the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {_SCHEMA}")
        self.behaviour = Behaviour()
        self._of_prompts: dict[str, Behaviour] = {}
        self._chances: dict[str, random.Random] = {}
        self._peaks: dict[str, int] = {}
        self._pictures: OrderedDict[str, list[bytes]] = OrderedDict()

    def note_pictures(self, prompt: str, pictures: Iterable[bytes]) -> None:
        """Remember which pictures came with a request."""
        self._pictures[prompt] = list(pictures)
        while len(self._pictures) > _PROMPTS_WITH_PICTURES:
            self._pictures.popitem(last=False)

    def pictures(self, prompt: str) -> list[bytes]:
        """The pictures that came with the last request of that prompt."""
        return self._pictures.get(prompt, [])

    def behaviour_for(self, prompt: str) -> Behaviour:
        """What holds for a request with that prompt. A prompt with a directive has counts of faults of its own."""
        if prompt not in self._of_prompts:
            own = self.behaviour.of_prompt(prompt)
            if own is self.behaviour:
                return own
            self._of_prompts[prompt] = own
        return self._of_prompts[prompt]

    def chance(self, prompt: str) -> Chance:
        """Draws from 0 to 1 for a request with that prompt: one row of draws for each, if the behaviour has a seed."""
        if self.behaviour.seed is None:
            return random.random
        if prompt not in self._chances:
            self._chances[prompt] = random.Random(f"{self.behaviour.seed}/{prompt}")
        return self._chances[prompt].random

    def bill(self, vendor: str, *, task_id: str, model: str, prompt: str, outputs: int, price_usd: float) -> None:
        """An accepted submit is written into the ledger."""
        row = (vendor, task_id, model, prompt, outputs, price_usd, time.time())
        self._connection.execute("INSERT INTO bills VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def bills(self) -> list[dict[str, Any]]:
        """The ledger in its order."""
        rows = self._connection.execute("SELECT * FROM bills ORDER BY rowid")
        return [asdict(Bill(**dict(row))) for row in rows]

    def add_task(
        self,
        vendor: str,
        *,
        task_id: str,
        model: str,
        prompt: str,
        request: dict[str, Any],
        behaviour: Behaviour,
        client_id: str | None = None,
    ) -> None:
        """A task begins to run. `client_id` is the client's own id for it, where the vendor takes one."""
        now = time.time()
        row = (task_id, vendor, model, prompt, json.dumps(request), behaviour.model_dump_json(), now,
               now + behaviour.task_seconds, 0, client_id)  # fmt: skip
        self._connection.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)", row)
        self._peaks[vendor] = max(self._peaks.get(vendor, 0), self.active(vendor))
        self._peaks[_ALL] = max(self._peaks.get(_ALL, 0), self.active())

    def task(self, vendor: str, task_id: str) -> SimulatedTask | None:
        """The task, or None."""
        row = self._connection.execute(
            "SELECT * FROM tasks WHERE vendor = ? AND task_id = ?", (vendor, task_id)
        ).fetchone()
        return None if row is None else _task(row)

    def task_of_client(self, vendor: str, client_id: str) -> SimulatedTask | None:
        """The task that has that id of the client's, or None."""
        row = self._connection.execute(
            "SELECT * FROM tasks WHERE vendor = ? AND client_id = ?", (vendor, client_id)
        ).fetchone()
        return None if row is None else _task(row)

    def tasks(self, vendor: str, *, limit: int, offset: int = 0) -> list[SimulatedTask]:
        """A page of a vendor's tasks, the newest first."""
        rows = self._connection.execute(
            "SELECT * FROM tasks WHERE vendor = ? ORDER BY created_at DESC LIMIT ? OFFSET ?", (vendor, limit, offset)
        )
        return [_task(row) for row in rows]

    def cancel(self, task_id: str) -> None:
        """A task ends by a cancel."""
        self._connection.execute("UPDATE tasks SET cancelled = 1, ready_at = created_at WHERE task_id = ?", (task_id,))

    def save_behaviour(self, task: SimulatedTask) -> None:
        """Keep a task's faults with their counts gone down, and that it was checked once more."""
        self._connection.execute(
            "UPDATE tasks SET behaviour = ?, checks = checks + 1 WHERE task_id = ?",
            (task.behaviour.model_dump_json(), task.task_id),
        )

    def cancelled(self) -> dict[str, bool]:
        """By prompt, whether its task was cancelled."""
        rows = self._connection.execute("SELECT prompt, cancelled FROM tasks")
        return {row["prompt"]: bool(row["cancelled"]) for row in rows}

    def checks(self) -> int:
        """How often tasks were checked, all together."""
        return int(self._connection.execute("SELECT COALESCE(SUM(checks), 0) FROM tasks").fetchone()[0])

    def active(self, vendor: str | None = None) -> int:
        """How many tasks run now, of a vendor or of all."""
        query = "SELECT COUNT(*) FROM tasks WHERE (? IS NULL OR vendor = ?) AND ready_at > ?"
        return int(self._connection.execute(query, (vendor, vendor, time.time())).fetchone()[0])

    def peaks(self) -> dict[str, int]:
        """By vendor, and for all of them together, how many tasks have run at once at the most."""
        return dict(self._peaks)

    def forget(self) -> None:
        """An empty ledger, no tasks, and everybody behaves."""
        self.behaviour = Behaviour()
        self._of_prompts.clear()
        self._chances.clear()
        self._peaks.clear()
        self._pictures.clear()
        self._connection.executescript("DELETE FROM bills; DELETE FROM tasks;")


def _task(row: sqlite3.Row) -> SimulatedTask:
    fields = dict(row)
    fields["request"] = json.loads(fields["request"])
    fields["behaviour"] = Behaviour.model_validate_json(fields["behaviour"])
    fields["cancelled"] = bool(fields["cancelled"])
    return SimulatedTask(**fields)
