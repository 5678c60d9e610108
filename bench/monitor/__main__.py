"""`python -m bench.monitor`: the monitor's questions over many generations, its absence under load, a line of a log."""

from __future__ import annotations

import argparse

import uvloop
from rich.console import Console

from bench.monitor.lines import lines
from bench.monitor.outage import outage
from bench.monitor.scale import scale
from bench.place import place
from sandbox.plan import FOLDER

_PARTS = ("scale", "outage", "lines")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitor", description=__doc__)
    parser.add_argument("--generations", type=int, default=1_000_000, help="rows to ask over")
    parser.add_argument("--seconds", type=float, default=20.0, help="of load with the monitor, and without")
    parser.add_argument("--rounds", type=int, default=3, help="how often")
    parser.add_argument("--only", action="append", choices=_PARTS, help="one part; may be repeated")
    arguments = parser.parse_args()
    console, wanted = Console(width=150), arguments.only or _PARTS
    if "lines" in wanted:
        console.print(lines())
    if "outage" in wanted:
        console.print(
            uvloop.run(outage(FOLDER / "bench" / "monitor-outage", arguments.seconds, arguments.rounds, console.print))
        )
    if "scale" in wanted:
        with place(FOLDER / "bench" / "monitor", console) as where:
            console.print(uvloop.run(scale(where, arguments.generations)))


if __name__ == "__main__":
    main()
