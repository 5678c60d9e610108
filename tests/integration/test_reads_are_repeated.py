"""A read is not a submit: whatever a read answers for a while, its result is stored, and billed once.

Once and twelve times in a row, for the check of a task and for the read of its result, over every adapter.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import pytest
from darkroom.gateway.v1 import gateway_pb2

from libs.common.adapters.registry import adapters
from libs.common.database.engine import Database
from libs.common.endings import has_its_end
from tests.conftest import quick
from tests.support.http import call
from tests.support.infrastructure import Infrastructure
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.simulator import Simulator, simulated
from tests.support.stacks import StackOfModule, stack_of_module
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

KINDS = (
    "html", "401", "403", "404", "408", "410", "429", "500", "502", "503", "reset", "truncated", "cut_off", "nothing",
    "empty",
)  # fmt: skip
TIMES = (1, 12)
MODELS = {
    "flux": "flux-pro",
    "tuzi_openai": "dall-e-3",
    "kling": "kling-v1-6",
    "kling_relay": "kling-v1-6-relay",
    "pollo": "pollo-v1-6",
    "replicate": "flux-schnell",
    "fal": "flux-dev-fal",
    "openai_video": "sora-2",
}
# The second read of a check, where there is one.
READS = {"fal": ("check", "response", "result")}
SETTINGS = {
    "DARKROOM_POLL_PROBE_SECONDS": "0.1",
    "DARKROOM_MISSING_POLL_SECONDS": "0.1",
    "DARKROOM_MISSING_BELIEVED_SECONDS": "1",
    "DARKROOM_LOG_LEVEL": "warn",
}


def _hasty(catalog: dict[str, Any]) -> None:
    quick(catalog)
    for provider in catalog["providers"].values():
        provider["retry"] = {"attempts": 3, "first_wait_seconds": 0.1, "longest_wait_seconds": 0.1}


@pytest.fixture(scope="module")
def module_stack(shared: Infrastructure) -> Iterator[StackOfModule]:
    with stack_of_module(shared, "reads", settings=SETTINGS, adjust=_hasty) as found:
        yield found


def test_the_table_has_every_adapter() -> None:
    assert set(MODELS) == set(adapters())


@pytest.mark.parametrize("adapter", MODELS)
async def test_what_a_read_answers_for_a_while_loses_no_result(
    stack: Running, stack_database: Database, simulator: Simulator, adapter: str
) -> None:
    prompts = {
        simulated(
            f"{adapter} {kind} {times}",
            task_seconds=0.1,
            faults=[
                {"operation": operation, "kind": kind, "times": times}
                for operation in READS.get(adapter, ("check", "result"))
            ],
        ): (kind, times)
        for kind in KINDS
        for times in TIMES
    }
    made = await asyncio.gather(*(stack.create(MODELS[adapter], prompt) for prompt in prompts))
    case_of = dict(zip(made, prompts.values(), strict=True))

    async def all_ended() -> list[dict[str, Any]]:
        found = await rows(
            stack_database,
            "SELECT id, state, error, ended_at FROM generation_requests WHERE id = ANY(:ids)",
            ids=list(made),
        )
        return found if all(row["ended_at"] for row in found) else []

    ended = await eventually(all_ended, within=40, what=f"all of {adapter} have ended")
    not_stored = {case_of[row["id"]]: row["error"] for row in ended if row["state"] != "SUCCESS"}
    assert not_stored == {}
    bills = [bill["prompt"] for bill in await simulator.bills()]
    assert sorted(bills) == sorted(prompts)


@pytest.mark.parametrize(("times", "is_whole"), [(2, True), (20, False)])
async def test_a_file_that_is_cut_off_is_fetched_again_and_in_the_end_taken(
    stack: Running, simulator: Simulator, times: int, is_whole: bool
) -> None:
    faults = [{"operation": "result", "kind": "half", "times": times}]
    prompt = simulated(f"half {times}", task_seconds=0.1, faults=faults)
    ended = await stack.ended(await stack.create("flux-pro", prompt))
    assert ended.status == gateway_pb2.GENERATION_STATUS_SUCCESS
    content = (await call(ended.results[0].url, "")).body
    assert has_its_end(io.BytesIO(content), len(content)) is is_whole
    assert len(await simulator.bills(prompt)) == 1
