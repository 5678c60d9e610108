"""`python -m bench.imaging`: images beside others' images, under a size, and when they are hostile."""

from __future__ import annotations

import argparse
from time import monotonic

import uvloop
from rich.console import Console

from bench.imaging.attack import attack
from bench.imaging.sizes import sizes
from bench.imaging.speed import compare
from sandbox.plan import FOLDER

_PARTS = ("speed", "sizes", "attack")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.imaging", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="how many images, 1 for as many as usual")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the median is taken")
    parser.add_argument("--images", type=int, default=100, help="images that are brought under a size")
    parser.add_argument("--flips", type=int, default=10_000, help="images with flipped bits")
    parser.add_argument("--only", action="append", choices=_PARTS, help="one part; may be repeated")
    arguments = parser.parse_args()
    console, wanted, began = Console(width=130), arguments.only or _PARTS, monotonic()
    folder = FOLDER / "bench"

    def tell(words: str) -> None:
        console.print(f"{monotonic() - began:6.1f} s  {words}", markup=False, soft_wrap=True)

    if "speed" in wanted:
        console.print(*compare(folder / "imaging", arguments.scale, arguments.rounds, tell), sep="\n")
    if "sizes" in wanted:
        console.print(sizes(arguments.images, tell))
    if "attack" in wanted:
        console.print(*uvloop.run(attack(folder / "imaging-attack", arguments.flips, tell)), sep="\n")


if __name__ == "__main__":
    main()
