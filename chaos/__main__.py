"""`python -m chaos --seed 1`: make one run and print its report. Exits 1 where a law was broken."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chaos.audit import LAWS
from chaos.ledger import write_ledger
from chaos.money import Moment
from chaos.run import Outcome, Run
from chaos.schedule import Kind
from sandbox.figures import percentile
from sandbox.launcher import StackFailed
from sandbox.plan import FOLDER

_GENERATIONS, _SECONDS = 3_000, 110.0

Line = tuple[str, object]


def _sent(outcome: Outcome) -> list[Line]:
    report, load = outcome.report, outcome.load
    return [
        ("submitted", report.submitted),
        ("  tickets in clients' hands", len(load.tickets)),
        ("  answers that were lost; creates answered as repeats", f"{load.unanswered}; {load.repeats}"),
        ("  with input images; late tasks", f"{load.with_images}; {load.late}"),
        ("  results deleted; reused", f"{load.deletes}; {len(load.reused)}"),
        (
            "batches; generations of them that were resumed, skipped",
            f"{report.batches}; {report.resumed}, {report.skipped}",
        ),
        ("  old batches that were resumed", load.old_resumes),
        ("succeeded", report.succeeded),
        ("  late results", report.late),
        ("cancelled", report.cancelled),
        ("failed", sum(report.failed.values())),
        *((f"  {code}", count) for code, count in sorted(report.failed.items())),
        ("attempts, and bills at the vendors", f"{report.attempts}, {report.bills}"),
        ("fallbacks taken", report.fallbacks),
    ]


def _faults(outcome: Outcome) -> list[Line]:
    counts = outcome.injector.counts
    return [
        ("parts killed", counts[Kind.KILL]),
        ("gateways killed between commit and reply", counts[Kind.KILL_AFTER_COMMIT]),
        ("dispatchers stalled before a send", counts[Kind.STALL]),
        ("bursts of refused reads", counts[Kind.REFUSE_READS]),
        ("replies to COMMIT lost", outcome.lost_replies),
        ("faults of object storage", outcome.storage_faults),
    ]


def _money(outcome: Outcome) -> list[Line]:
    audits = outcome.audits
    resolved = ", ".join(f"{count} {name}" for name, count in sorted(outcome.operator.resolved.items()))
    lines: list[Line] = [
        ("audits of money", audits.count),
        ("submissions that an operator resolved", resolved or 0),
    ]
    for moment in (Moment.SETTLED, Moment.RESOLVED):
        found = audits.last[moment]
        amounts = (audits.owed[moment], found.spent, found.at_risk, found.reserved)
        lines.append(
            (f"  {moment}: billed, spent, at risk, reserved", ", ".join(f"{one / 1e6:.6f}" for one in amounts))
        )
    return lines


def show(outcome: Outcome, console: Console) -> None:
    """Print the report of a run."""
    report, recovery = outcome.report, outcome.recovery
    table = Table(title=f"Chaos with seed {outcome.schedule.seed}", box=None, title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    lines = [*_sent(outcome), *_faults(outcome), *_money(outcome)]
    lines += [(f"[bold]{words}", len(getattr(report, name))) for name, words in LAWS.items()]
    lines += [
        ("orphaned objects in storage", report.orphaned_objects),
        (
            f"rows taken over from killed processes ({len(recovery.seconds)}), p50 and p99",
            f"{percentile(recovery.seconds, 0.5):.1f} s, {percentile(recovery.seconds, 0.99):.1f} s",
        ),
        ("all ready after the database was back, longest", f"{max(recovery.ready_seconds, default=0.0):.1f} s"),
        ("took", f"{outcome.seconds:.0f} s"),
    ]
    for name, value in lines:
        table.add_row(name, str(value))
    console.print(table)
    for name in (*LAWS, "own_faults"):
        for entry in getattr(report, name)[:20]:
            console.print(f"{name}: {entry}", style="red", markup=False)


def main() -> int:
    """Read the command line, make a run, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description="Inject faults into a running stack, and count which laws they broke."
    )
    parser.add_argument("--seed", type=int, default=None, help="repeats the faults of a run; random by default")
    parser.add_argument("--generations", type=int, default=_GENERATIONS)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="for how long faults are injected, in seconds")
    parser.add_argument(
        "--ledger", type=Path, default=None, help="a file that the sums of the run are written to, as JSON"
    )
    arguments = parser.parse_args()
    seed = int(time.time()) % 100_000 if arguments.seed is None else arguments.seed
    console, began = Console(highlight=False), time.monotonic()
    folder = FOLDER / "chaos"
    shutil.rmtree(folder, ignore_errors=True)

    def tell(words: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {words}", markup=False, soft_wrap=True)

    console.print(f"Chaos with seed {seed}; logs are in {folder / 'logs'}.")
    run = Run(folder, seed=seed, generations=arguments.generations, seconds=arguments.seconds, tell=tell)
    try:
        outcome = asyncio.run(run.go())
    except StackFailed as error:
        console.print(f"The stack failed: {error}", style="red", markup=False)
        return 1
    show(outcome, console)
    if arguments.ledger is not None:
        write_ledger(outcome, arguments.ledger)
    return 0 if outcome.report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
