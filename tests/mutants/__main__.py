"""`python -m tests.mutants`: draws mutants, and runs the tests against each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from time import monotonic

from rich.console import Console

from tests.mutants.drawing import HERE, Mutant, draw, replacements, subjects
from tests.mutants.running import Tree

_LIST = HERE / "mutants.json"
# Trees in which mutants of the first tier run side by side.
_AT_ONCE = 2
_TIERS = ("subject", "fast", "slow")
_console = Console(highlight=False, width=160)


def listed() -> list[Mutant]:
    """Return the mutants of mutants.json."""
    return [Mutant.model_validate(one) for one in json.loads(_LIST.read_text(encoding="utf-8"))]


def save(mutants: Sequence[Mutant]) -> None:
    """Write them to mutants.json."""
    text = json.dumps([mutant.model_dump() for mutant in mutants], indent=1, ensure_ascii=False)
    _LIST.write_text(text + "\n", encoding="utf-8")


def run(names: Sequence[str], tiers: Sequence[str]) -> int:
    """Run the tests against mutants, save after each who killed it, and show it. Return 0 if all were killed.

    Args:
        names: ids of mutants or names of subjects; all if there are none.
        tiers: which tests run, one tier after the other, until one kills the mutant.
    """
    mutants = {mutant.id: mutant for mutant in listed()}
    chosen = [
        mutant.id
        for mutant in mutants.values()
        if not mutant.equivalent and (not names or {mutant.id, mutant.subject} & set(names))
    ]
    with TemporaryDirectory(prefix="darkroom-mutants-") as folder, ThreadPoolExecutor(_AT_ONCE) as pool:
        trees: Queue[Tree] = Queue()
        for number in range(_AT_ONCE):
            trees.put(Tree(Path(folder) / f"tree-{number}"))
        left = chosen
        for tier in tiers:
            # The larger tiers have workers of their own, and run against one mutant at a time.
            apply: Callable[..., Iterator[Mutant]] = pool.map if tier == "subject" else map
            ran = apply(partial(_run, trees, tier), [mutants[one] for one in left])
            for found in ran:
                mutants[found.id] = found
                save(list(mutants.values()))
            left = [one for one in left if not mutants[one].killed_by]
        killers = {mutants[one].killed_by for one in chosen} - {""}
        fails = trees.get().killer(None, "fast", sorted(one for one in killers if one.startswith("tests/")))
    if fails:
        _console.print(f"a test that killed fails without a mutant too: {fails}", markup=False)
        return 1
    _console.print(f"{len(chosen) - len(left)} of {len(chosen)} killed; survived: {', '.join(left) or 'none'}")
    return 1 if left else 0


def _run(trees: Queue[Tree], tier: str, mutant: Mutant) -> Mutant:
    """Run one tier against a mutant in a tree that is free, and show what came of it."""
    (subject,) = (one for one in subjects() if one.name == mutant.subject)
    tree, began = trees.get(), monotonic()
    try:
        killer = tree.killer(mutant, tier, subject.tests if tier == "subject" else [])
    finally:
        trees.put(tree)
    said = f"killed by {killer}" if killer else "survived"
    _console.print(f"{mutant.id}  {tier}  {monotonic() - began:.0f} s  {said}", markup=False)
    return mutant.model_copy(update={"killed_by": killer, "tier": tier if killer else ""})


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="draw anew into mutants.json; what killed earlier ones is forgotten")
    drawing.add_argument("--count", type=int, default=60)
    drawing.add_argument("--seed", type=int, default=24)
    replacing = commands.add_parser("replace", help="draw one more for each equivalent mutant that has no replacement")
    replacing.add_argument("--seed", type=int, default=24)
    running = commands.add_parser("run", help="run the tests against mutants")
    running.add_argument("names", nargs="*", help="ids or subjects; all by default")
    running.add_argument("--until", choices=_TIERS, default="fast", help="the last tests to run: %(default)s")
    given = parser.parse_args()
    if given.command == "draw":
        save(draw(given.count, given.seed))
        return 0
    if given.command == "replace":
        save([*listed(), *replacements(listed(), given.seed)])
        return 0
    return run(given.names, _TIERS[: _TIERS.index(given.until) + 1])


if __name__ == "__main__":
    sys.exit(main())
