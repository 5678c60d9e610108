"""Reads the database, the providers' ledger and the bucket after a run, and says what does not add up."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from libs.common.database.engine import Database
from libs.common.errors import ErrorCode, GenerationError

TERMINAL = "('SUCCESS', 'FAILED', 'CANCELLED')"
_LOOK_SECONDS = 1.0
_CENT = 0.01
BROKEN = (
    "lost",
    "made_twice",
    "billed_twice",
    "stuck",
    "changed",
    "success_without_bill",
    "result_missing",
    "misaccounted",
    "open_batches",
    "miscounted",
)
"""What is empty where every law was kept."""
_USAGE = """
SELECT (SELECT sum(live_generations) FROM api_key_usage) + (SELECT COALESCE(sum(live), 0) FROM api_key_ledger) AS live,
    COALESCE((SELECT sum(reserved_usd) FROM api_key_spend), 0)
        + COALESCE((SELECT sum(reserved_usd) FROM api_key_ledger), 0) AS reserved_usd,
    COALESCE((SELECT sum(spent_usd) FROM api_key_spend), 0)
        + COALESCE((SELECT sum(spent_usd) FROM api_key_ledger), 0) AS spent_usd"""


async def rows(database: Database, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    """What a query answers."""
    return await database.transaction(
        "chaos", lambda c: [dict(row) for row in c.execute(sa.text(sql), parameters).mappings()]
    )


class Terminal:
    """Remembers rows as they were when they were first seen ended, to find those that change afterwards."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, str] = {}

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            # The database may be away: part of the plan.
            with contextlib.suppress(GenerationError):
                await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Remember those that have ended since the last look."""
        found = await rows(
            self._database,
            "SELECT id, md5(g::text) AS digest FROM generation_requests g "
            f"WHERE state IN {TERMINAL} AND id <> ALL(:ids)",
            ids=list(self._seen),
        )
        self._seen |= {row["id"]: row["digest"] for row in found}

    async def changed(self) -> list[str]:
        """The ids of rows that are not what they were when they ended."""
        found = await rows(self._database, "SELECT id, md5(g::text) AS digest FROM generation_requests g")
        now = {row["id"]: row["digest"] for row in found}
        return [identifier for identifier, digest in self._seen.items() if now.get(identifier) != digest]


@dataclass(slots=True)
class Report:
    """What a run came to."""

    submitted: int = 0
    succeeded: int = 0
    cancelled: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    bills: int = 0
    attempts: int = 0
    fallbacks: int = 0
    lost: list[str] = field(default_factory=list)
    made_twice: list[str] = field(default_factory=list)
    misaccounted: list[str] = field(default_factory=list)
    billed_twice: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    success_without_bill: list[str] = field(default_factory=list)
    result_missing: list[str] = field(default_factory=list)
    own_faults: list[str] = field(default_factory=list)
    orphaned_objects: int = 0
    batches: int = 0
    resumed: int = 0
    skipped: int = 0
    open_batches: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every law was kept."""
        return not any(getattr(self, name) for name in BROKEN)


async def audit(
    database: Database,
    *,
    tickets: set[str],
    batches: set[str],
    bills: list[dict[str, Any]],
    bucket: Path,
    terminal: Terminal,
) -> Report:
    """Hold what was promised against what there is.

    Args:
        database: the stack's.
        tickets: the ids of single generations that clients were given.
        batches: those of batches.
        bills: the providers' ledger; the prompt of each is one request's alone.
        bucket: the folder of the object store.
        terminal: what it saw during the run.
    """
    found = await rows(database, "SELECT * FROM generation_requests")
    report = Report(submitted=len(found), bills=len(bills))
    by_prompt = Counter(bill["prompt"] for bill in bills)
    present = {row["id"] for row in found}
    report.lost = sorted(tickets - present)
    # What continues another was asked for by whoever resumed its batch, and may be paid once more.
    first = Counter(row["prompt"] for row in found if row["continues_id"] is None)
    rows_of_prompt = Counter(row["prompt"] for row in found)
    report.made_twice = sorted(prompt for prompt, count in first.items() if count > 1)
    await _hold_batches(database, report, found, batches)
    report.misaccounted = await _misaccounted(database, found)
    report.billed_twice = sorted(prompt for prompt, count in by_prompt.items() if count > rows_of_prompt[prompt])
    report.changed = await terminal.changed()
    stored: set[str] = set()
    for row in found:
        _count(report, row)
        if row["state"] != "SUCCESS":
            continue
        keys = {output["object_key"] for output in row["outputs"]}
        stored |= keys
        if by_prompt[row["prompt"]] == 0:
            report.success_without_bill.append(row["id"])
        if not all((bucket / key).is_file() for key in keys):
            report.result_missing.append(row["id"])
    report.orphaned_objects = len(await asyncio.to_thread(_objects, bucket) - stored)
    return report


async def _hold_batches(database: Database, report: Report, found: list[dict[str, Any]], tickets: set[str]) -> None:
    """Every batch has ended, with counters that its generations come to; nothing that succeeded was run again."""
    states = {row["id"]: row["state"] for row in found}
    continued = {row["continues_id"] for row in found}
    report.resumed = len(continued - {None})
    report.made_twice += sorted(key for key in continued if states.get(key) == "SUCCESS")
    batches = await rows(database, "SELECT * FROM generation_batches")
    report.batches = len(batches)
    report.lost += sorted(tickets - {batch["id"] for batch in batches})
    for batch in batches:
        current = [row for row in found if row["batch_id"] == batch["id"] and row["id"] not in continued]
        skipped = [row for row in current if row["error"] and row["error"]["code"] == ErrorCode.SKIPPED]
        report.skipped += len(skipped)
        ended = Counter(row["state"] for row in current)
        truth = (len(current), ended["SUCCESS"], ended["FAILED"], ended["CANCELLED"] - len(skipped), len(skipped))
        names = ("total", "completed", "failed", "cancelled", "skipped")
        counted = tuple(batch[f"{name}_tasks"] for name in names)
        if counted != truth:
            report.miscounted.append(f"{batch['id']}: {counted}, and its rows are {truth}")
        if batch["ended_at"] is None:
            report.open_batches.append(f"{batch['id']}: {dict(ended)}")


async def _misaccounted(database: Database, found: list[dict[str, Any]]) -> list[str]:
    """Where the keys' usage is not what their generations come to."""
    (usage,) = await rows(database, _USAGE)
    spent_usd = sum(row["cost_usd"] or 0.0 for row in found if row["state"] == "SUCCESS")
    wrong = []
    if usage["live"] != 0 or abs(usage["reserved_usd"]) > _CENT / 100:
        wrong.append(f"{usage['live']} live generations, {usage['reserved_usd']} US dollars reserved")
    if abs(float(usage["spent_usd"]) - spent_usd) > _CENT:
        wrong.append(f"{usage['spent_usd']} US dollars spent, and {spent_usd} cost")
    return wrong


def _objects(bucket: Path) -> set[str]:
    return {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()}


def _count(report: Report, row: dict[str, Any]) -> None:
    report.attempts += row["attempts"]
    report.fallbacks += len(row["fallback_path"])
    if row["state"] == "SUCCESS":
        report.succeeded += 1
    elif row["state"] == "CANCELLED":
        report.cancelled += 1
    elif row["state"] == "FAILED":
        report.failed[row["error"]["code"]] += 1
        if row["error"]["code"] == ErrorCode.INTERNAL_ERROR:
            attempts = f"{row['attempts']} attempts at {row['provider_id']}"
            report.own_faults.append(f"{row['id']}, {attempts}: {row['error']['message']} {row['error']['details']}")
    else:
        report.stuck.append(f"{row['id']} {row['state']}")
