"""`python -m tests.differential`: records what the product does at this tree, and compares two recordings."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from pydantic import ValidationError
from rich.console import Console

from tests.differential.comparing import compare, show
from tests.differential.parts import PARTS
from tests.differential.recording import Recorded, Recording, load
from tests.differential.since import SinceFailed, commit_of, recorded_at
from tests.suites import ROOT

_console = Console(highlight=False, width=200)


def record(out: Path, names: Sequence[str]) -> int:
    """Record parts into a file, each in a process of its own. Return 1 if one failed, else 0."""
    if len(names) == 1:
        _record_here(names[0]).save(out)
        return 0
    parts: dict[str, Recorded] = {}
    with TemporaryDirectory(prefix="darkroom-differential-") as folder:
        for name in names:
            # Numbers that a process counts, such as those of ids of test rows, begin anew in each part.
            path = Path(folder) / f"{name}.json"
            command = [sys.executable, "-m", "tests.differential", "record", str(path), name]
            if subprocess.run(command, check=False, cwd=ROOT).returncode == 0:
                parts |= load(path).parts
    Recording(commit=commit_of(ROOT), parts=parts).save(out)
    if missing := [name for name in names if name not in parts]:
        _console.print(f"Recording failed: {', '.join(missing)}; the reason is above.", style="red")
    return 1 if missing else 0


def _record_here(name: str) -> Recording:
    began = monotonic()

    def tell(words: str) -> None:
        _console.print(f"{name} {monotonic() - began:6.1f} s  {words}", markup=False)

    rows = PARTS[name].record(tell)
    seconds = monotonic() - began
    tell(f"{len(rows)} rows recorded")
    return Recording(commit=commit_of(ROOT), parts={name: Recorded(seconds=seconds, rows=rows)})


def compare_files(before: Path, after: Path) -> int:
    """Print the differences of two recordings. Return 1 if there are any, 2 if one cannot be read, else 0."""
    try:
        old, new = load(before), load(after)
    except (OSError, ValidationError) as error:
        _console.print(f"A recording cannot be read: {error}. Make it with `record`.", style="red", markup=False)
        return 2
    differences = compare(old, new, {name: part.tolerances for name, part in PARTS.items()})
    show(differences, old, new, _console)
    return 1 if differences else 0


def since(commit: str, names: Sequence[str]) -> int:
    """Record a commit and this tree, and compare. Return 1 if they differ or a part failed, else 0."""
    with TemporaryDirectory(prefix="darkroom-differential-") as folder:
        before, after = Path(folder) / "before.json", Path(folder) / "after.json"
        try:
            failed = recorded_at(commit, before, names, tell=_console.print)
        except SinceFailed as error:
            _console.print(str(error), style="red", markup=False)
            return 1
        failed = record(after, names) or failed
        return compare_files(before, after) or failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="record parts at this tree")
    recording.add_argument("out", type=Path)
    comparing = commands.add_parser("compare", help="compare two recordings; exits 1 if they differ")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    both = commands.add_parser("since", help="record a commit and this tree, and compare them")
    both.add_argument("commit")
    for command in (recording, both):
        command.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    given = parser.parse_args()
    if unknown := set(getattr(given, "parts", [])) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def main() -> int:
    """Read the command line and run the command."""
    given = _arguments()
    if given.command == "compare":
        return compare_files(given.before, given.after)
    names = given.parts or list(PARTS)
    if given.command == "since":
        return since(given.commit, names)
    return record(given.out, names)


if __name__ == "__main__":
    sys.exit(main())
