"""The skeleton of a new adapter is good code from the start."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.new_adapter import new_adapter, write
from sandbox.plan import ROOT
from tests.support.infrastructure import PATH


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code, to write into."""
    for folder in ("libs", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


async def _run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", *command],
        cwd=copy,
        env={"PYTHONPATH": f"{copy}:{PATH}", "PATH": "/usr/bin:/bin", "HOME": str(copy)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


async def test_the_skeleton_is_linted_registered_and_has_its_case(copy: Path) -> None:
    written = write(copy, "example_vendor")
    for check in (["check"], ["format", "--check"]):
        run = await _run(copy, "ruff", *check, *map(str, written))
        assert run.returncode == 0, run.stdout + run.stderr
    script = copy / "ask.py"
    script.write_text(
        "from libs.common.adapters.registry import adapters\n"
        "from tests.contract.cases import CASES\n"
        "print(adapters()['example_vendor'].__name__, 'example_vendor' in CASES)\n"
    )
    run = await _run(copy, "ask")
    assert run.stdout.split() == ["ExampleVendor", "True"], run.stderr
    assert len(written[0].read_text().splitlines()) < 150


async def test_nothing_is_written_over(copy: Path) -> None:
    before = (copy / "libs/common/adapters/flux.py").read_text()
    with pytest.raises(FileExistsError):
        write(copy, "flux")
    assert (copy / "libs/common/adapters/flux.py").read_text() == before


@pytest.mark.parametrize("name", ["", "Example", "../x", "a b", "1x"])
def test_a_bad_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert new_adapter(name) == 1
    assert "lower case" in capsys.readouterr().err
