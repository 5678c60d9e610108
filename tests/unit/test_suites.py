"""The slow suites: which of them a change can break, and how many fit into a time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import suites
from tests.suites import Suite, faults, run

_PASSES = [sys.executable, "-c", ""]


def _suite(name: str = "s", *, minutes: float = 0.0, command: list[str] | None = None) -> Suite:
    return Suite(name=name, tests=["tests/a.py"], paths=["libs/*.py"], minutes=minutes, command=command or _PASSES)


@pytest.mark.parametrize(
    ("changed", "can"),
    [("libs/b.py", True), ("libs/c/d.py", True), ("tests/a.py", True), ("docs/a.md", False), ("tests/b.py", False)],
)
def test_a_change_of_its_paths_or_its_tests_can_break_a_suite(changed: str, can: bool) -> None:
    assert _suite().can_break(["README.md", changed]) is can


@pytest.mark.parametrize(
    ("changed", "count"),
    [
        (["tests/conftest.py"], 2),
        (["requirements/services.txt"], 2),
        (["new_folder/new.py"], 2),
        (["libs/b.py", "docs/größe.md"], 1),
        (["libs/b.py", "tests/support/rows.py"], 2),
        (["README.md", "tests/unit/test_suites.py"], 0),
        ([], 0),
    ],
)
def test_what_nobody_knows_can_break_everything(changed: list[str], count: int) -> None:
    other = Suite(name="other", paths=["services/*"], minutes=0)
    assert len(suites.broken_by(changed, [_suite(), other])) == count


def _repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "ROOT", folder)
    for name in ("leases.py", "größe.md"):
        (folder / name).write_text(name)
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        suites.git("-c", "user.name=x", "-c", "user.email=x@example.com", *command)


def test_a_file_that_was_moved_has_changed_under_both_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _repository(tmp_path, monkeypatch)
    suites.git("mv", "leases.py", "other.py")
    suites.git("mv", "größe.md", "maße.md")
    (tmp_path / "new file.py").write_text("x")
    assert set(suites.changed_since("main") or []) == {"leases.py", "other.py", "größe.md", "maße.md", "new file.py"}
    assert suites.changed_since("nothing") is None


def test_the_table_is_whole() -> None:
    assert faults(suites.suites()) == []


def test_a_suite_without_files_is_told() -> None:
    if faults([]) == []:
        pytest.skip("there is no history of the repository here")
    assert "no file is libs/*.nothing" in faults([Suite(name="x", paths=["libs/*.nothing"], minutes=1)])


def test_what_takes_longer_than_is_left_is_named_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    leaves = [sys.executable, "-c", f"open({str(ran)!r}, 'w')"]
    assert run([_suite("long", minutes=2, command=leaves), _suite("short")], minutes=1, arguments=[]) == 0
    shown = capsys.readouterr().out
    assert not ran.exists()
    assert "long   not run: no time is left" in shown
    assert "short  passed" in shown


def test_a_suite_that_fails_does_not_keep_the_others_from_running(capsys: pytest.CaptureFixture[str]) -> None:
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    assert run([_suite("bad", command=fails), _suite("good")], minutes=1, arguments=[]) == 3
    assert "good   passed" in capsys.readouterr().out
