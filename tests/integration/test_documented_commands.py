"""The commands in the documentation run as they stand, against the real gateway."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from sandbox.plan import ROOT
from tests.conftest import StartStack
from tests.support.experiments import SERVICES, service_answers
from tests.support.running import Running

pytestmark = pytest.mark.slow

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = (
    "docs/api.md",
    "docs/batches.md",
    "docs/images.md",
    "docs/experiments.md",
    "docs/client.md",
    "docs/alerts.md",
    "docs/operating.md",
    "README.md",
)
ALL = {
    f"{page} {number}": block
    for page in PAGES
    for number, block in enumerate(_BLOCK.findall((ROOT / page).read_text()))
}
# What starts an experiment changes what others get, and so has a stack of its own.
EXPERIMENTS = {name: block for name, block in ALL.items() if "/admin/experiments" in block}
BLOCKS = {name: block for name, block in ALL.items() if name not in EXPERIMENTS}


def test_there_are_some() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
async def test_a_documented_command_runs(running: Running, tmp_path: Path, block: str) -> None:
    code, output = await _run(running, tmp_path, block)
    assert code == 0, output[-3_000:]


async def test_documented_experiments_run(start_stack: StartStack, tmp_path: Path) -> None:
    running = await start_stack(services=SERVICES)
    await service_answers(running)
    for name, block in EXPERIMENTS.items():
        code, output = await _run(running, tmp_path, block)
        assert code == 0, output[-3_000:]
        assert '"reason"' in output or '"winner"' in output, name


async def _run(running: Running, folder: Path, block: str) -> tuple[int | None, str]:
    address = f"127.0.0.1:{running.stack.plan.ports.grpc['gateway']}"
    script = block.replace("127.0.0.1:50051", address).replace("http://127.0.0.1:8080", running.gateway_url())
    script = script.replace(".venv/bin/", f"{ROOT}/.venv/bin/").replace("curl -s", "curl -sf")
    # A watch ends with what it watches; a minute is more than enough.
    given = {"DARKROOM_API_KEY": running.admin_key, "DARKROOM_ADDRESS": address, "COLUMNS": "200"}
    child = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", "-c", script,
        cwd=folder, env=os.environ | given,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(child.communicate(), 60)
    return child.returncode, output.decode()
