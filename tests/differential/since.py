"""Records another commit in a worktree of it, with its own differential tests and its own code of the protos."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.suites import ROOT

_GENERATED = "build/generated"


class SinceFailed(RuntimeError):
    """The commit cannot be recorded; the message says why and what to do."""


def commit_of(folder: Path) -> str:
    """Return the short id of a tree's commit, with `-dirty` after it where files differ; `unknown` outside of git."""
    done = _run(["git", "describe", "--always", "--dirty", "--exclude=*"], folder)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def recorded_at(commit: str, out: Path, names: Sequence[str], *, tell: Callable[[str], None]) -> int:
    """Record parts at a commit into a file, and return the exit code of its recording.

    Args:
        commit: as git names it.
        out: the file to write; it must be absolute.
        names: of the parts.
        tell: called with a line of progress.

    Raises:
        SinceFailed: there is no such commit, it has no differential tests, or its protos cannot be compiled.
    """
    with _worktree(commit) as folder:
        if not (folder / "tests/differential/__main__.py").exists():
            raise SinceFailed(
                f"Commit {commit} has no tests/differential, so that it cannot be recorded. Name a later commit."
            )
        tell(f"recording {commit_of(folder)} in {folder}")
        _provide_protos(folder)
        command = [sys.executable, "-m", "tests.differential", "record", str(out), *names]
        done = subprocess.run(command, cwd=folder, env=_environment(folder), check=False)
    if not out.exists():
        raise SinceFailed(f"Recording commit {commit} failed with exit code {done.returncode}; the reason is above.")
    return done.returncode


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    """Check a commit out in a temporary folder, which is removed at the end."""
    with TemporaryDirectory(prefix="darkroom-before-", ignore_cleanup_errors=True) as parent:
        # Postgres runs as another user where these tests run as root, and reads files of the folder.
        Path(parent).chmod(0o755)
        folder = Path(parent) / "tree"
        added = _run(["git", "worktree", "add", "--detach", "--quiet", str(folder), commit], ROOT)
        if added.returncode:
            raise SinceFailed(f"git worktree add failed for {commit}: {added.stderr.strip()}")
        try:
            (folder / ".venv").symlink_to(Path(sys.prefix))
            yield folder
        finally:
            _run(["git", "worktree", "remove", "--force", str(folder)], ROOT)


def _provide_protos(folder: Path) -> None:
    """Share this tree's generated code where the protos are the same, else have the commit's Makefile generate it.

    Raises:
        SinceFailed: the protos cannot be compiled.
    """
    if _same_protos(folder) and (ROOT / _GENERATED / ".made").exists():
        (folder / "build").mkdir(exist_ok=True)
        (folder / _GENERATED).symlink_to(ROOT / _GENERATED)
        return
    installed = Path(sys.prefix) / ".sandbox"
    command = ["make", f"--assume-old={installed}", f"VENV={sys.prefix}", f"{_GENERATED}/.made"]
    made = _run(command, folder)
    if made.returncode:
        raise SinceFailed(f"The protos of the commit cannot be compiled: {(made.stdout + made.stderr).strip()[-500:]}")


def _same_protos(folder: Path) -> bool:
    return (
        _run(["diff", "--recursive", "--brief", str(ROOT / "protos"), str(folder / "protos")], folder).returncode == 0
    )


def _environment(folder: Path) -> dict[str, str]:
    """The environment in which the worktree's packages and its generated code come before the installed ones."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder / _GENERATED)])}


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
