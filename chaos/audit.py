"""Compares the database, the vendors' ledger and the bucket after a run, and reports the differences."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos import money
from chaos.load import REQUEST_LABEL, Load
from chaos.rows import rows
from chaos.terminal import Terminal
from libs.common.database.engine import Database
from libs.common.errors import ErrorCode

LAWS = {
    "lost": "lost",
    "made_twice": "made twice",
    "billed_twice": "billed twice without consent",
    "discarded": "paid results discarded",
    "late_missing": "late results not stored",
    "money": "faults of money",
    "stuck": "stuck",
    "changed": "terminal rows changed",
    "success_without_bill": "succeeded without a bill",
    "result_missing": "results missing in storage",
    "reused_missing": "reused results missing in storage",
    "without_inputs": "submitted without their input images",
    "open_batches": "batches that stay open",
    "miscounted": "batches whose counters do not match their rows",
}
"""The lists of a report that are empty where every law was kept, each with its name in the printed report."""


@dataclass(slots=True)
class Report:
    """The result of a run: counts, and for each law the list of what broke it."""

    submitted: int = 0
    succeeded: int = 0
    late: int = 0
    cancelled: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    bills: int = 0
    attempts: int = 0
    fallbacks: int = 0
    lost: list[str] = field(default_factory=list)
    made_twice: list[str] = field(default_factory=list)
    reused_missing: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    without_inputs: list[str] = field(default_factory=list)
    late_missing: list[str] = field(default_factory=list)
    money: list[str] = field(default_factory=list)
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
        return not any(getattr(self, name) for name in LAWS)


async def audit(
    database: Database,
    *,
    load: Load,
    bills: list[money.Bill],
    bucket: Path,
    terminal: Terminal,
) -> Report:
    """Compare what clients were promised with the database, the ledger and the object store.

    Args:
        database: the stack's database.
        load: the ids that clients were given.
        bills: the vendors' ledger; each prompt belongs to one request.
        bucket: the folder of the object store.
        terminal: the rows that were seen ended during the run.
    """
    found = await rows(database, "SELECT * FROM generation_requests")
    report = Report(submitted=len(found), bills=len(bills))
    by_prompt = Counter(bill["prompt"] for bill in bills)
    present = {row["id"] for row in found}
    report.lost = sorted(load.tickets - present)
    # A continuation was requested by the client that resumed the batch, and may be paid once more.
    first = Counter(_name(row) for row in found if row["continues_id"] is None)
    report.made_twice = sorted(name for name, count in first.items() if count > 1)
    await _audit_batches(database, report, found, load.batches)
    snapshot = await money.snapshot(database)
    report.billed_twice = money.billed_twice(snapshot, bills)
    report.without_inputs = money.without_inputs(snapshot, bills)
    report.discarded = money.discarded(snapshot, bills, bills)
    report.changed = await terminal.changed()
    stored: set[str] = set()
    for row in found:
        _count(report, row)
        if row["state"] != "SUCCESS" or row["deleted_at"] is not None:
            continue
        keys = {output["object_key"] for output in row["outputs"]}
        stored |= keys
        if by_prompt[row["prompt"]] == 0:
            report.success_without_bill.append(row["id"])
        if not all((bucket / key).is_file() for key in keys):
            (report.reused_missing if row["id"] in load.reused else report.result_missing).append(row["id"])
    report.orphaned_objects = len(await asyncio.to_thread(_objects, bucket) - stored)
    return report


async def _audit_batches(database: Database, report: Report, found: list[dict[str, Any]], tickets: set[str]) -> None:
    """Check that every batch has ended, that its counters match its rows, and that no success was run again."""
    states = {row["id"]: row["state"] for row in found}
    # The generation of a late result is in no batch: the one that timed out keeps its place.
    continued = {row["continues_id"] for row in found if not row["is_late"]}
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


def _name(row: dict[str, Any]) -> str:
    return str(row["labels"].get(REQUEST_LABEL, row["prompt"]))


def _objects(bucket: Path) -> set[str]:
    return {str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()}


def _count(report: Report, row: dict[str, Any]) -> None:
    report.attempts += row["attempts"]
    report.fallbacks += len(row["fallback_path"])
    if row["state"] == "SUCCESS":
        report.succeeded += 1
        report.late += row["is_late"]
    elif row["state"] == "CANCELLED":
        report.cancelled += 1
    elif row["state"] == "FAILED":
        report.failed[row["error"]["code"]] += 1
        if row["error"]["code"] == ErrorCode.INTERNAL_ERROR:
            attempts = f"{row['attempts']} attempts at {row['provider_id']}"
            report.own_faults.append(f"{row['id']}, {attempts}: {row['error']['message']} {row['error']['details']}")
    else:
        report.stuck.append(f"{row['id']} {row['state']}")
