"""The lag of the event loop, and when what is read after a pause may have come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
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


@pytest.fixture
async def lag() -> AsyncIterator[LoopLag]:
    found = LoopLag()
    found.start()
    yield found
    await found.stop()


async def test_a_loop_that_runs_reads_what_has_just_come(lag: LoopLag) -> None:
    await asyncio.sleep(0.2)
    # Unless the machine has just paused.
    assert monotonic() - lag.received_at() < 0.5 or lag.stalled_seconds() > 0


async def test_what_is_read_after_a_pause_may_have_come_when_it_began(lag: LoopLag) -> None:
    started = monotonic()
    await asyncio.sleep(0.2)
    before, began = _slow_turns(), monotonic()
    # The loop stands still, as in a process that is stopped.
    time.sleep(0.8)  # noqa: ASYNC251
    at_once = lag.received_at()
    await asyncio.sleep(0.2)
    # A busy machine may have begun the pause before.
    for received_at in (at_once, lag.received_at()):
        assert started <= received_at <= began + 0.1
    assert _slow_turns() > before
