"""The lag of the event loop, and when what is read after a pause may have come."""

from __future__ import annotations

import asyncio
import time
from time import monotonic

import pytest
from prometheus_client import REGISTRY

from libs.common.loop_lag import LoopLag


def _slow_turns() -> float:
    total = REGISTRY.get_sample_value("darkroom_event_loop_lag_seconds_count")
    quick = REGISTRY.get_sample_value("darkroom_event_loop_lag_seconds_bucket", {"le": "0.5"})
    assert total is not None
    assert quick is not None
    return total - quick


async def test_a_loop_that_runs_reads_what_has_just_come() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.2)
    assert lag.received_at() == pytest.approx(monotonic(), abs=0.05)
    await lag.stop()


async def test_what_is_read_after_a_pause_may_have_come_when_it_began() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(0.2)
    before, began = _slow_turns(), monotonic()
    # The loop stands still, as in a process that is stopped.
    time.sleep(0.8)  # noqa: ASYNC251
    at_once = lag.received_at()
    await asyncio.sleep(0.2)
    assert at_once == pytest.approx(began, abs=0.1)
    assert lag.received_at() == pytest.approx(began, abs=0.1)
    assert _slow_turns() == before + 1
    await lag.stop()
