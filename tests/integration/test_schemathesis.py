"""Schemathesis, from our own OpenAPI document, against the running gateway: no faults, no statuses untold."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import StartStack

pytestmark = pytest.mark.slow

# Others of its checks ask for what we do not promise, such as that any text is a prompt that passes.
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
_EXAMPLES_OF_AN_OPERATION = 25
_SETTINGS = {"DARKROOM_WRONG_KEY_DELAY_SECONDS": "0"}


@pytest.mark.timeout(480)
async def test_no_request_finds_a_fault(start_stack: StartStack, tmp_path: Path) -> None:
    running = await start_stack(services=("gateway", "monitor", "experiments"), settings=_SETTINGS)
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{running.gateway_url()}/api/openapi.json",
        "--header", f"x-api-key: {running.admin_key}", "--checks", ",".join(_CHECKS),
        "--max-examples", str(_EXAMPLES_OF_AN_OPERATION), "--phases", "examples,coverage,fuzzing", "--seed", "1",
        # A stream does not end, and it knows no way to write lines.
        "--exclude-path-regex", "/(events|upload)$", "--suppress-health-check", "all", "--no-color",
        # Threads that parse at once trip over a fault of CPython 3.11 (gh-106905).
        "--workers", "1",
        "--request-timeout", "10",
    ]  # fmt: skip
    child = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await child.communicate()
    told = output.decode()
    assert child.returncode == 0, told[-8_000:]
    (cases,) = re.findall(r"([\d,]+) generated", told)
    assert int(cases.replace(",", "")) > 300, told[-2_000:]
    assert await running.failed_handlers() == 0
