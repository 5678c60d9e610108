"""`python -m bench.churn`: what becomes of the tables and their indexes, with Postgres' own settings and with ours."""

from __future__ import annotations

import argparse

import uvloop
from rich.console import Console

from bench.churn.measure import figures, measured
from bench.place import place
from sandbox.plan import FOLDER


def main() -> None:
    """Measure with both settings in turn."""
    parser = argparse.ArgumentParser(prog="python -m bench.churn", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long generations come and go, each time")
    parser.add_argument("--backlog", type=int, default=20_000, help="how many wait all the time")
    arguments = parser.parse_args()
    console = Console(width=150)
    with place(FOLDER / "bench/churn", console) as found:
        results = [
            uvloop.run(measured(found, name, arguments.seconds, arguments.backlog)) for name in ("default", "ours")
        ]
    console.print(figures(results))


if __name__ == "__main__":
    main()
