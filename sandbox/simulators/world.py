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
from typing import Any, Literal

from sandbox.simulators.behaviour import Behaviour, Chance

_SCHEMA = """
CREATE TABLE IF NOT EXISTS bills (
    vendor TEXT NOT NULL, task_id TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    outputs INTEGER NOT NULL, price_usd REAL NOT NULL, billed_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY, vendor TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    request TEXT NOT NULL, behaviour TEXT NOT NULL, created_at REAL NOT NULL, ready_at REAL NOT NULL,
    checks INTEGER NOT NULL, cancelled INTEGER NOT NULL DEFAULT 0, client_id TEXT,
    failure TEXT, inputs INTEGER NOT NULL, answers_with_outputs INTEGER NOT NULL,
    is_deleted INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS tasks_by_ready ON tasks (ready_at, vendor);
CREATE INDEX IF NOT EXISTS tasks_by_creation ON tasks (vendor, created_at);
CREATE INDEX IF NOT EXISTS tasks_by_client_id ON tasks (vendor, client_id) WHERE client_id IS NOT NULL;
"""
# Raised with each change of the tables: a file of an older version is emptied.
_VERSION = 1
_BILLS = """
SELECT b.*, t.ready_at, t.inputs, t.answers_with_outputs, CASE
    WHEN t.cancelled THEN 'cancelled'
    WHEN t.ready_at > :now THEN 'running'
    WHEN t.failure IS NOT NULL THEN 'failed'
    ELSE 'succeeded' END AS outcome
FROM bills b JOIN tasks t USING (task_id) ORDER BY b.rowid"""
_ALL = "all"
_PROMPTS_WITH_PICTURES = 64


Outcome = Literal["running", "succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Bill:
    """One accepted submit, as the vendor would bill it, with what became of its task.

    Args:
        vendor, task_id, model, prompt, outputs: what was accepted.
        price_usd: in US dollars.
        billed_at, ready_at: when it was accepted, and when its task ends or has ended, in Unix seconds.
        inputs: how many input images came with the request.
        answers_with_outputs: whether the vendor answers a submit with the outputs, and has no task to be checked.
        outcome: running, succeeded, failed or cancelled. The bill of a task that failed, or was cancelled before its
            end, is taken back.
    """

    vendor: str
    task_id: str
    model: str
    prompt: str
    outputs: int
    price_usd: float
    billed_at: float
    ready_at: float
    inputs: int
    answers_with_outputs: bool
    outcome: Outcome

    @property
    def is_refunded(self) -> bool:
        """Whether nothing is owed for it."""
        return self.outcome in {"failed", "cancelled"}


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """A task. Times in Unix seconds. `failure`: how it fails at its end, if it does."""

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
    failure: str | None


class World:
    """The vendors' memory.

    Args:
        path: of the SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF")
        if self._connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            self._connection.executescript("DROP TABLE IF EXISTS bills; DROP TABLE IF EXISTS tasks")
        self._connection.executescript(f"{_SCHEMA} PRAGMA user_version = {_VERSION};")
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
        """The ledger in its order, as `Bill` has it, with `is_refunded`."""
        found = [_bill(row) for row in self._connection.execute(_BILLS, {"now": time.time()})]
        return [asdict(bill) | {"is_refunded": bill.is_refunded} for bill in found]

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
        failure: str | None = None,
        inputs: int = 0,
        answers_with_outputs: bool = False,
    ) -> None:
        """Start a task of a vendor.

        `client_id`: the client's own id for it, where the vendor takes one. `failure`: how it fails at its end, if it
        does. `inputs`: how many input images came. `answers_with_outputs`: the submit is answered with the outputs.
        """
        now = time.time()
        row = (task_id, vendor, model, prompt, json.dumps(request), behaviour.model_dump_json(), now,
               now + behaviour.task_seconds, 0, client_id, failure, inputs, answers_with_outputs)  # fmt: skip
        self._connection.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?, 0)", row)
        self._peaks[vendor] = max(self._peaks.get(vendor, 0), self.active(vendor))
        self._peaks[_ALL] = max(self._peaks.get(_ALL, 0), self.active())

    def task(self, vendor: str, task_id: str) -> SimulatedTask | None:
        """The task, or None."""
        row = self._connection.execute(
            "SELECT * FROM tasks WHERE vendor = ? AND task_id = ? AND NOT is_deleted", (vendor, task_id)
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

    def cancel(self, task_id: str) -> bool:
        """Cancel a task, which takes its bill back. False, and nothing changes, where it has ended already."""
        now = time.time()
        changed = self._connection.execute(
            "UPDATE tasks SET cancelled = 1, ready_at = created_at WHERE task_id = ? AND ready_at > ?", (task_id, now)
        )
        return changed.rowcount == 1

    def delete(self, task_id: str) -> None:
        """Forget a task and its outputs; its bill stays."""
        self._connection.execute("UPDATE tasks SET is_deleted = 1 WHERE task_id = ?", (task_id,))

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
    for name in ("inputs", "answers_with_outputs", "is_deleted"):
        del fields[name]
    return SimulatedTask(**fields)


def _bill(row: sqlite3.Row) -> Bill:
    fields = dict(row)
    fields["answers_with_outputs"] = bool(fields["answers_with_outputs"])
    return Bill(**fields)
