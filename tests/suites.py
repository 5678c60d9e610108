"""`python -m tests.suites`: runs the slow suites, all of them or those that a change can break.

A suite is some test files of which pytest runs the tests marked `slow`; tests/suites.toml lists them by priority.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
_NOTHING_COLLECTED = 5


class Suite(BaseModel):
    """One of the suites.

    Attributes:
        name: for tables and the command line.
        tests: the test files, or folders of them, as pytest takes them.
        paths: what the suite can be broken by, as patterns of fnmatch, whose `*` matches slashes as well.
        minutes: what it takes on two cores; it is not begun when less is left.
        workers: processes of pytest at once. 0: pytest's own process, for suites that measure.
        options: further options of pytest.
        command: what runs in the place of pytest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    tests: list[str] = []
    paths: list[str]
    minutes: float
    workers: int = 2
    options: list[str] = ["-m", "slow"]
    command: list[str] = []

    def can_break(self, changed: Iterable[str]) -> bool:
        """Whether one of the changed files is among the suite's paths or its tests."""
        patterns = (*self.paths, *self.tests)
        return any(fnmatch(path, pattern) for path in changed for pattern in patterns)

    def run(self, arguments: Sequence[str]) -> int:
        """Run it, and return pytest's exit code; 0 where no test was left by the arguments."""
        pytest = [sys.executable, "-m", "pytest", "-n", str(self.workers), *self.options, *self.tests, *arguments]
        code = subprocess.run(self.command or pytest, cwd=ROOT, check=False).returncode
        return 0 if code == _NOTHING_COLLECTED else code


def _table() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "tests/suites.toml").read_text(encoding="utf-8"))
    return found


def suites() -> list[Suite]:
    """The suites of tests/suites.toml. Raises pydantic's ValidationError for a table that is none."""
    return [Suite.model_validate(one) for one in _table()["suite"]]


def broken_by(changed: Sequence[str], listed: Sequence[Suite]) -> list[Suite]:
    """The suites that a change of these files can break.

    All of them where one of the files is known to no suite, and is not among the `harmless` ones of tests/suites.toml.
    """
    harmless = _table()["harmless"]
    for path in changed:
        is_known = any(suite.can_break([path]) for suite in listed)
        if not is_known and not any(fnmatch(path, pattern) for pattern in harmless):
            return list(listed)
    return [suite for suite in listed if suite.can_break(changed)]


def changed_since(reference: str) -> list[str] | None:
    """The files that differ between the merge base with a reference and the working tree; None if that is unknown.

    A file that was moved is there under both of its names.
    """
    base = git("merge-base", reference, "HEAD")
    if not base:
        return None
    differing = git("diff", "--name-only", "--no-renames", "-z", base[0])
    untracked = git("ls-files", "--others", "--exclude-standard", "-z")
    return None if differing is None or untracked is None else [*differing, *untracked]


def git(*arguments: str) -> list[str] | None:
    """Return what a command of git prints in the clone, by lines or (`-z`) NULs; None where it fails."""
    command = shutil.which("git")
    if command is None:
        return None
    ended = subprocess.run([command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        return None
    return [part for part in re.split("[\0\n]", ended.stdout) if part]


def faults(listed: Sequence[Suite]) -> list[str]:
    """What is wrong with the table: test files with tests marked `slow` without a suite, and patterns of nothing."""
    tests = {path for suite in listed for path in suite.tests}
    found = (ROOT / "tests").rglob("test_*.py")
    marked = {path for path in found if re.search(r"pytest\.mark\.slow\b", path.read_text(encoding="utf-8"))}
    files = git("ls-files") or []
    patterns = {pattern for suite in listed for pattern in (*suite.paths, *suite.tests)}
    patterns = {f"{pattern}/*" if (ROOT / pattern).is_dir() else pattern for pattern in patterns}
    return [
        *(f"no suite has {path}" for path in sorted({str(path.relative_to(ROOT)) for path in marked} - tests)),
        *(f"no file is {one}" for one in sorted(patterns) if files and not any(fnmatch(path, one) for path in files)),
    ]


def run(chosen: Sequence[Suite], *, minutes: float, arguments: Sequence[str]) -> int:
    """Run suites one after the other, and show a table of them.

    Args:
        chosen: the suites, by priority.
        minutes: how long they may take together: one that would take longer is left out, and named.
        arguments: further ones for pytest.

    Returns 0 if all that ran have passed.
    """
    console = Console(highlight=False, width=100)
    table = Table("suite", "result", "minutes", box=None, pad_edge=False)
    until = monotonic() + minutes * 60
    code = 0
    for suite in chosen:
        if monotonic() + suite.minutes * 60 > until:
            table.add_row(suite.name, "not run: no time is left", f"({suite.minutes:g})")
            continue
        console.print(f"suite {suite.name}: {' '.join(suite.tests)}")
        began = monotonic()
        failed = suite.run(arguments)
        code = code or failed
        table.add_row(suite.name, f"failed ({failed})" if failed else "passed", f"{(monotonic() - began) / 60:.1f}")
    console.print(table)
    return code


def main() -> int:
    """Read the command line and run. The exit code is that of the first suite that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("names", nargs="*", help="suites; all by default")
    parser.add_argument(
        "--since", metavar="REFERENCE", help="only suites that the changes since the merge base can break"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="how long they may take together")
    given, arguments = parser.parse_known_args()
    listed = suites()
    if wrong := faults(listed):
        parser.error("tests/suites.toml: " + "; ".join(wrong))
    if unknown := set(given.names) - {suite.name for suite in listed}:
        parser.error(
            f"there is no suite {', '.join(sorted(unknown))}; there are: {', '.join(one.name for one in listed)}"
        )
    chosen = [suite for suite in listed if not given.names or suite.name in given.names]
    changed = changed_since(given.since) if given.since else None
    if changed is not None:
        breakable = broken_by(changed, listed)
        chosen = [suite for suite in chosen if suite in breakable]
    return run(chosen, minutes=given.minutes, arguments=arguments)


if __name__ == "__main__":
    sys.exit(main())
