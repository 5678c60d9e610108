"""`python -m bench.replicas`: what one dispatcher and one poller carry, and what several do on the same machine."""

from __future__ import annotations

import argparse
from time import monotonic

import uvloop
from rich.console import Console

from bench.replicas.measure import figures, measured
from sandbox.plan import FOLDER


def main() -> None:
    """Measure with each number of replicas in turn."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    parser.add_argument("--generations", type=int, default=3_000, help="requests handed in at once")
    parser.add_argument("--task-seconds", type=float, default=2.0, help="how long a provider takes for each")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4], help="of dispatcher and poller, each")
    arguments = parser.parse_args()
    console, began = Console(width=150), monotonic()

    def tell(words: str) -> None:
        console.print(f"{monotonic() - began:6.1f} s  {words}", markup=False, soft_wrap=True)

    found = [
        uvloop.run(measured(FOLDER / "bench/replicas", count, arguments.generations, arguments.task_seconds, tell))
        for count in arguments.replicas
    ]
    console.print(figures(found))


if __name__ == "__main__":
    main()
