"""`python -m bench.poller`: all contenders in one run, and a table. `--live` lets our poller alone hold many tasks."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from bench.place import Place, Unavailable, place
from bench.poller.contenders import DARKROOM, PEERS
from bench.poller.live import live
from bench.poller.run import measure
from bench.poller.scenario import Scenario
from bench.poller.table import table
from sandbox.plan import FOLDER

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
    with place(FOLDER / "bench", console) as there:
        if given.live:
            for name, value in live(there, scenario, given.live).items():
                console.print(f"  {name:<38} {value:,.3f}".rstrip("0").rstrip("."))
            return 0
        return _compare(there, scenario, given.only or [DARKROOM, *PEERS], console)


def _compare(there: Place, scenario: Scenario, names: list[str], console: Console) -> int:
    due = scenario.tasks / scenario.interval_seconds
    console.print(
        f"{scenario.tasks} tasks of {scenario.polls} polls, one each {scenario.interval_seconds:g} s, "
        f"at most {scenario.concurrency} checks at once: {due:.0f} polls/s are due."
    )
    found = []
    for name in names:
        there.tell(name)
        try:
            found.append(measure(there, name, scenario))
        except Unavailable as error:
            there.tell(f"{name} is skipped: {error}")
    console.print(table(found, ours=DARKROOM))
    for measured in found:
        if measured.note:
            console.print(f"{measured.name}: {measured.note}", style="yellow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
