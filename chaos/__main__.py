"""`python -m chaos --seed 1`: one run, and what it came to. Exits 1 where a law was broken."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time

from rich.console import Console
from rich.table import Table

from chaos.audit import BROKEN
from chaos.run import Outcome, Run
from sandbox.figures import percentile
from sandbox.launcher import StackFailed
from sandbox.plan import FOLDER

_GENERATIONS, _SECONDS = 3_000, 110.0


def show(outcome: Outcome, console: Console) -> None:
    """Print what the run came to."""
    report, recovery = outcome.report, outcome.recovery
    table = Table(title=f"Chaos with seed {outcome.schedule.seed}", box=None, title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    failed = sum(report.failed.values())
    lines: list[tuple[str, object]] = [
        ("submitted", report.submitted),
        ("  tickets in clients' hands", len(outcome.load.tickets)),
        ("  answers that were lost", outcome.load.unanswered),
        (
            "batches; generations of them that were resumed, skipped",
            f"{report.batches}; {report.resumed}, {report.skipped}",
        ),
        ("succeeded", report.succeeded),
        ("cancelled", report.cancelled),
        ("failed", failed),
        *((f"  {code}", count) for code, count in sorted(report.failed.items())),
        ("attempts, and bills at the providers", f"{report.attempts}, {report.bills}"),
        ("fallbacks taken", report.fallbacks),
        ("parts killed", outcome.kills),
        ("faults of object storage", outcome.storage_faults),
        ("[bold]lost", len(report.lost)),
        ("[bold]made twice", len(report.made_twice)),
        ("[bold]billed twice", len(report.billed_twice)),
        ("[bold]stuck", len(report.stuck)),
        ("[bold]terminal rows changed", len(report.changed)),
        ("[bold]succeeded without a bill", len(report.success_without_bill)),
        ("[bold]results missing in storage", len(report.result_missing)),
        ("[bold]usage that does not add up", len(report.misaccounted)),
        ("[bold]batches that stay open", len(report.open_batches)),
        ("[bold]batches whose counters are not their rows", len(report.miscounted)),
        ("orphaned objects in storage", report.orphaned_objects),
        (
            f"rows taken over from the dead ({len(recovery.seconds)}), p50 and p99",
            f"{percentile(recovery.seconds, 0.5):.1f} s, {percentile(recovery.seconds, 0.99):.1f} s",
        ),
        (
            "all ready after the database was back, longest",
            f"{max(recovery.ready_seconds, default=0.0):.1f} s",
        ),
        ("took", f"{outcome.seconds:.0f} s"),
    ]
    for name, value in lines:
        table.add_row(name, str(value))
    console.print(table)
    for name in (*BROKEN, "own_faults"):
        for entry in getattr(report, name)[:20]:
            console.print(f"{name}: {entry}", style="red", markup=False)


def main() -> int:
    """Read the command line, run, and answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Break a running stack, count what it cost.")
    parser.add_argument("--seed", type=int, default=None, help="repeats a run's faults; drawn where not given")
    parser.add_argument("--generations", type=int, default=_GENERATIONS)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="how long things are broken")
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
    return 0 if outcome.report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
