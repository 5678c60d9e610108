"""The fuzzer against a stack of its own: `FUZZ_SEED` and `FUZZ_CASES` in the environment change what it sends."""

from __future__ import annotations

import os

import pytest

from tests.conftest import StartStack, with_webhooks
from tests.fuzz.run import run
from tests.fuzz.setting_up import SERVICES, SETTINGS

_SECONDS = 1_500.0


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_nothing_from_outside_is_a_server_error(start_stack: StartStack) -> None:
    cases = int(os.environ.get("FUZZ_CASES", "20000"))
    running = await start_stack(services=SERVICES, settings=SETTINGS, adjust=with_webhooks, webhooks=True)
    report = await run(running, seed=os.environ.get("FUZZ_SEED", "7"), cases=cases, seconds=_SECONDS)
    print(report.text())
    assert not report.findings, report.text()
    assert report.cases.total() >= cases * 0.999, report.text()
