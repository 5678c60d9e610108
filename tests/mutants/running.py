"""Runs the tests against a copy of the source with one mutant in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.drawing import Mutant
from tests.suites import ROOT, git

# The name of a test, without the group of workers' tests that xdist puts behind it.
_OUTCOME = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?:@[\w-]+)?(?: - .*)?$", re.MULTILINE)
_LIMIT_SECONDS = {"subject": 600, "fast": 1_800, "slow": 7_200}


class Tree:
    """A copy of the files that git knows, in which mutants are put and taken out again.

    Args:
        folder: where to make it; what is there is deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        for name in git("ls-files", "--cached", "--others", "--exclude-standard") or []:
            if (ROOT / name).exists():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        for shared in (".venv", "build"):
            (folder / shared).symlink_to(ROOT / shared)

    def killer(self, mutant: Mutant | None, tier: str, tests: Sequence[str]) -> str:
        """Run tests with a mutant, or without one. Return the test that failed first; "" if none did."""
        path = self.folder / mutant.path if mutant else None
        source = path.read_text(encoding="utf-8") if path else ""
        try:
            if path and mutant:
                path.write_text(mutant.applied(source), encoding="utf-8")
            return self._first_failure(tier, tests)
        finally:
            if path:
                path.write_text(source, encoding="utf-8")

    def _first_failure(self, tier: str, tests: Sequence[str]) -> str:
        marks = "slow" if tier == "slow" else "not slow"
        # The tests of a subject run in the order of its list, the quickest first.
        workers = "0" if tier == "subject" else "4"
        command = [sys.executable, "-m", "pytest", "-x", "-n", workers, "--durations", "0", "-rfE", "-m", marks, *tests]
        try:
            ended = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=_LIMIT_SECONDS[tier]
            )
        except subprocess.TimeoutExpired:
            return f"the tests did not end within {_LIMIT_SECONDS[tier]} s"
        if ended.returncode == 0:
            return ""
        found = _OUTCOME.search(ended.stdout)
        return found[1] if found else (ended.stdout + ended.stderr)[-300:]
