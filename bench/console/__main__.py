"""`python -m bench.console`: each page of the console over millions of generations."""

from __future__ import annotations

import argparse

import uvloop
from rich.console import Console

from bench.console.pages import Measured, measure
from bench.place import place
from sandbox.plan import FOLDER


def main() -> None:
    """Fill a database, start the services over it, and ask for each page."""
    parser = argparse.ArgumentParser(prog="python -m bench.console", description=__doc__)
    parser.add_argument("--generations", type=int, default=1_000_000, help="that have ended within a month")
    parser.add_argument("--times", type=int, default=20, help="how often each page is asked for")
    parser.add_argument("--again", action="store_true", help="over the rows that the last run has made")
    arguments = parser.parse_args()
    console = Console(width=120)
    with place(FOLDER / "bench" / "console", console, again=arguments.again) as where:
        fresh = None if arguments.again else arguments.generations
        found = uvloop.run(measure(where, fresh, arguments.times))
    console.print(Measured.table(found, arguments.generations))


if __name__ == "__main__":
    main()
