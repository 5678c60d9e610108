"""`python -m bench.batches`: one large batch, what others notice of it, and what it was expected to cost."""

from __future__ import annotations

import argparse
from time import monotonic

import uvloop
from rich.console import Console

from bench.batches.beside import beside
from bench.batches.estimate import estimate
from bench.batches.large import large
from sandbox.plan import FOLDER

_PARTS = ("large", "beside", "estimate")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000, help="generations of the large batch")
    parser.add_argument("--places", type=int, default=50, help="how many of them at once")
    parser.add_argument("--singles", type=int, default=100, help="single requests beside it")
    parser.add_argument("--mixed", type=int, default=1_000, help="requests whose price is estimated")
    parser.add_argument("--only", action="append", choices=_PARTS, help="one part; may be repeated")
    arguments = parser.parse_args()
    console, wanted, began = Console(width=150), arguments.only or _PARTS, monotonic()
    folder = FOLDER / "bench"

    def tell(words: str) -> None:
        console.print(f"{monotonic() - began:6.1f} s  {words}", markup=False, soft_wrap=True)

    if "large" in wanted:
        console.print(uvloop.run(large(folder / "batches-large", arguments.tasks, arguments.places, tell)))
    if "beside" in wanted:
        console.print(uvloop.run(beside(folder / "batches-beside", arguments.tasks, arguments.singles, tell)))
    if "estimate" in wanted:
        console.print(uvloop.run(estimate(folder / "batches-estimate", arguments.mixed, tell)))


if __name__ == "__main__":
    main()
