"""Law 1: losing any RPC costs latency, never work."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartStack
from tests.support.running import SUCCESS
from tests.support.simulator import simulated

NOBODY = "127.0.0.1:9"


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param({"DARKROOM_DISPATCHER_ADDRESS": NOBODY}, id="no wake-up reaches the dispatcher"),
        pytest.param({"DARKROOM_POLLER_ADDRESS": NOBODY}, id="no wake-up reaches the poller"),
        pytest.param({"DARKROOM_DISPATCHER_ADDRESS": NOBODY, "DARKROOM_POLLER_ADDRESS": NOBODY}, id="neither"),
    ],
)
async def test_a_sweep_finds_what_a_lost_wake_up_left(start_stack: StartStack, lost: dict[str, str]) -> None:
    running = await start_stack(settings=lost)
    prompt = simulated("x", task_seconds=0.2)
    ids = [await running.create(model, prompt) for model in ("flux-pro", "gpt-image-1", "dall-e-3")]
    ended = await asyncio.gather(*(running.ended(generation_id) for generation_id in ids))
    assert {generation.status for generation in ended} == {SUCCESS}


async def test_what_was_accepted_while_the_others_were_away_is_done_when_they_come(start_stack: StartStack) -> None:
    alone = await start_stack(services=("gateway",))
    prompt = simulated("x", task_seconds=0.2)
    ids = [await alone.create("flux-pro", prompt) for _ in range(3)]
    whole = await start_stack()
    ended = await asyncio.gather(*(whole.ended(generation_id) for generation_id in ids))
    assert {generation.status for generation in ended} == {SUCCESS}
