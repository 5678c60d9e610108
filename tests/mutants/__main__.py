"""`python -m tests.mutants`: draws mutants, and runs the tests against each."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from rich.console import Console

from tests.mutants.drawing import HERE, Mutant, draw, subjects
from tests.mutants.running import Tree, killed

_LIST = HERE / "mutants.json"
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
    """Run the tests against mutants, save after each who killed it, and show it. Return 0 if all were killed."""
    mutants = {mutant.id: mutant for mutant in listed()}
    by_name = {subject.name: subject for subject in subjects()}
    chosen = [mutant for mutant in mutants.values() if not names or mutant.id in names or mutant.subject in names]
    survivors = []
    with TemporaryDirectory(prefix="darkroom-mutants-") as folder:
        tree = Tree(Path(folder) / "tree")
        for subject in {mutant.subject for mutant in chosen}:
            if fails := tree.killer(None, "subject", by_name[subject].tests):
                _console.print(f"{subject}: the tests fail without a mutant: {fails}")
                return 1
        for mutant in chosen:
            began = monotonic()
            found = killed(tree, mutant, by_name[mutant.subject], tiers)
            mutants[mutant.id] = found
            save(list(mutants.values()))
            said = f"killed by {found.killed_by} ({found.tier})" if found.killed_by else "SURVIVED"
            _console.print(f"{mutant.id}  {monotonic() - began:.0f} s  {said}", markup=False)
            if not found.killed_by:
                survivors.append(mutant.id)
        killers = sorted({mutants[one.id].killed_by for one in chosen} - {""})
        if killers and (fails := tree.killer(None, "fast", [one for one in killers if one.startswith("tests/")])):
            _console.print(f"a test that killed fails without a mutant too: {fails}")
            return 1
    _console.print(
        f"{len(chosen) - len(survivors)} of {len(chosen)} killed; survived: {', '.join(survivors) or 'none'}"
    )
    return 1 if survivors else 0


def main() -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="draw anew into mutants.json; what killed earlier ones is forgotten")
    drawing.add_argument("--count", type=int, default=60)
    drawing.add_argument("--seed", type=int, default=24)
    running = commands.add_parser("run", help="run the tests against mutants")
    running.add_argument("names", nargs="*", help="ids or subjects; all by default")
    running.add_argument("--until", choices=_TIERS, default="fast", help="the last tests to run: %(default)s")
    given = parser.parse_args()
    if given.command == "draw":
        save(draw(given.count, given.seed))
        return 0
    return run(given.names, _TIERS[: _TIERS.index(given.until) + 1])


if __name__ == "__main__":
    sys.exit(main())
