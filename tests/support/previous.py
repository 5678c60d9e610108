"""The version before the newest migration, as the repository's history has it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from libs.common.database import migrate
from sandbox import processes
from sandbox.plan import ROOT

_MIGRATIONS = Path(migrate.__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class PreviousVersion:
    """Code of before, and the schema that it was made for.

    Args:
        folder: where it was laid out.
        revision: of the schema.
        commit: of the code, shortened.
    """

    folder: Path
    revision: str
    commit: str

    def start(self, command: Sequence[str | Path], *, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start one of its processes."""
        path = f"{self.folder}:{self.folder / 'build/generated'}"
        return processes.start(
            [sys.executable if part == "python" else part for part in command],
            environment={**environment, "PYTHONPATH": path},
            cwd=self.folder,
        )


def previous_version(folder: Path) -> PreviousVersion | None:
    """Lay it out in `folder`; None before the first migration after the initial one, and in a clone without history."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    head = next(ScriptDirectory.from_config(config).walk_revisions())
    before = head.down_revision
    if before is None:
        return None
    assert isinstance(before, str)
    added = _git("log", "--diff-filter=A", "--format=%H", "--", str(Path(head.path).relative_to(ROOT)))
    if not added:
        return None
    parent = _git("rev-parse", "--verify", "--quiet", f"{added.split()[-1]}^")
    if not parent:
        return None
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", parent], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    _generate(folder)
    return PreviousVersion(folder, before, parent[:9])


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _generate(folder: Path) -> None:
    """Its code of its protos, by its own Makefile with the tools that are installed here."""
    environment = Path(sys.prefix)
    installed = f"{environment / '.sandbox'}"
    subprocess.run(
        ["make", f"--assume-old={installed}", f"VENV={environment}", "build/generated/.made"],
        check=True,
        cwd=folder,
        capture_output=True,
    )
