"""`python -m bench.poller`: all contenders in one run, and a table. `--live` lets our poller alone hold many tasks."""

from __future__ import annotations

import argparse
import shutil
import sys
import time

from rich.console import Console

from bench.place import Place, Unavailable
from bench.poller.contenders import DARKROOM, PEERS
from bench.poller.live import live
from bench.poller.run import measure
from bench.poller.scenario import Scenario
from bench.poller.table import table
from sandbox.plan import FOLDER
from sandbox.postgres import Postgres
from sandbox.processes import free_port

_TASKS, _POLLS, _INTERVAL_SECONDS = 2_000, 5, 4.0
_LIVE_INTERVAL_SECONDS = 250.0


def main() -> int:
    """Read the command line, measure, and answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.poller", description="Follow many tasks: us and peers.")
    parser.add_argument("--tasks", type=int, default=_TASKS)
    parser.add_argument("--polls", type=int, default=_POLLS, help="polls until a task ends")
    parser.add_argument("--interval", type=float, default=None, help="seconds between two polls of a task")
    parser.add_argument("--concurrency", type=int, default=50, help="checks at once")
    parser.add_argument("--only", choices=[DARKROOM, *PEERS], action="append", help="these contenders alone")
    parser.add_argument(
        "--live", type=float, metavar="SECONDS", help="hold --tasks live tasks in our poller for so long"
    )
    given = parser.parse_args()
    console = Console(highlight=False, width=160)
    interval = given.interval or (_LIVE_INTERVAL_SECONDS if given.live else _INTERVAL_SECONDS)
    scenario = Scenario(given.tasks, given.polls, interval, "", concurrency=given.concurrency)
    folder = FOLDER / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began = time.monotonic()

    def tell(words: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {words}", markup=False, soft_wrap=True)

    postgres = Postgres(folder / "postgres", free_port())
    postgres.start()
    try:
        place = Place(folder, postgres, tell)
        if given.live:
            for name, value in live(place, scenario, given.live).items():
                console.print(f"  {name:<38} {value:,.3f}".rstrip("0").rstrip("."))
            return 0
        return _compare(place, scenario, given.only or [DARKROOM, *PEERS], console)
    finally:
        postgres.stop()


def _compare(place: Place, scenario: Scenario, names: list[str], console: Console) -> int:
    due = scenario.tasks / scenario.interval_seconds
    console.print(
        f"{scenario.tasks} tasks of {scenario.polls} polls, one each {scenario.interval_seconds:g} s, "
        f"at most {scenario.concurrency} checks at once: {due:.0f} polls/s are due."
    )
    found = []
    for name in names:
        place.tell(name)
        try:
            found.append(measure(place, name, scenario))
        except Unavailable as error:
            place.tell(f"{name} is skipped: {error}")
    console.print(table(found, ours=DARKROOM))
    for measured in found:
        if measured.note:
            console.print(f"{measured.name}: {measured.note}", style="yellow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
