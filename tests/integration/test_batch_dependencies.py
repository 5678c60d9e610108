"""What waits for what in a batch: pictures first, then videos from them; what follows a failure, and what does not."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import aiohttp
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.catalog import load
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.pipeline import Pipeline
from libs.common.rpc.structs import from_struct
from sandbox.plan import SHIPPED_CATALOG
from tests.support.asked import COMPLETED, PARTIAL_FAILED, asked, create, ended
from tests.support.running import SUCCESS, Running
from tests.support.simulator import FAILS, Simulator, simulated

_numbers = itertools.count()
CONTINUE = gateway_pb2.DEPENDENCY_FAILURE_POLICY_CONTINUE


def _prompt(**behaviour: Any) -> str:
    return simulated(f"of a chain, number {next(_numbers)}", **{"task_seconds": 0.1, **behaviour})


async def _content(output: common_pb2.Output) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(output.url) as reply:
        return await reply.read()


def _as_needed(content: bytes, model_identifier: str) -> bytes:
    catalog = load(SHIPPED_CATALOG)
    model = catalog.model(model_identifier)
    needs = catalog.image_needs(model, catalog.parameters(model, {}))
    assert needs is not None
    return Pipeline(needs.held(needs.config), SourceLimits()).run(content).content


@pytest.mark.parametrize("model", ["kling-v1-6", "sora-2"], ids=["takes them in the request", "takes files"])
async def test_a_video_starts_from_the_picture_that_was_made_for_it(
    running: Running, simulator: Simulator, model: str
) -> None:
    video = _prompt()
    requests = [asked(_prompt(), ref="hero"), asked(video, model=model, pictures=["hero"])]
    batch = await ended(running.gateway, await create(running.gateway, requests))
    assert batch.status == COMPLETED
    picture, film = batch.tasks
    assert picture.ended_at.ToNanoseconds() < film.submitted_at.ToNanoseconds()
    content, film_content = [await _content(task.results[0]) for task in (picture, film)]
    # Its provider got that picture and no other, made into what it needs.
    assert await simulator.pictures(video) == [hashlib.sha256(_as_needed(content, model)).hexdigest()]
    assert hashlib.sha256(film_content).hexdigest() == film.results[0].sha256


async def test_what_depends_on_a_failure_is_skipped_with_its_cause_all_the_way(running: Running) -> None:
    requests = [
        asked(_prompt(faults=FAILS), ref="a"),
        asked(_prompt(), ref="b", depends_on=["a"]),
        asked(_prompt(), ref="c", depends_on=["b"]),
        asked(_prompt(), ref="d", depends_on=["a"], on_failure=CONTINUE),
        asked(_prompt(), ref="e"),
    ]
    batch_id = await create(running.gateway, requests, max_concurrency=5)
    batch = await ended(running.gateway, batch_id)
    assert batch.status == PARTIAL_FAILED
    counts = (batch.completed_tasks, batch.failed_tasks, batch.skipped_tasks, batch.cancelled_tasks)
    assert counts == (2, 1, 2, 0)
    a, *skipped, d, e = batch.tasks
    assert (d.status, e.status) == (SUCCESS, SUCCESS)
    for task in skipped:
        assert task.error.code == common_pb2.ERROR_CODE_SKIPPED
        assert task.error.message == "It was not run: a, which it depends on, did not succeed: TASK_FAILED."
        cause = from_struct(task.error.details)
        assert (cause["generation_id"], cause["code"]) == (a.id, "TASK_FAILED")
        assert task.attempts == 0

    resumed = gateway_pb2.ResumeBatchRequest(batch_id=batch_id, error_codes=[common_pb2.ERROR_CODE_SKIPPED])
    await running.gateway.ResumeBatch(resumed, timeout=60)
    again = await ended(running.gateway, batch_id)
    assert (again.status, again.skipped_tasks) == (PARTIAL_FAILED, 2), "what they depend on has failed still"
    assert again.tasks[1].continues_id == skipped[0].id


async def test_a_picture_that_failed_is_left_out_where_the_rest_is_to_go_on(
    running: Running, simulator: Simulator
) -> None:
    video = _prompt()
    requests = [
        asked(_prompt(faults=FAILS), ref="a"),
        asked(video, model="kling-v1-6", pictures=["a"], on_failure=CONTINUE),
    ]
    batch = await ended(running.gateway, await create(running.gateway, requests))
    assert batch.tasks[1].status == SUCCESS
    assert await simulator.pictures(video) == []


async def test_a_place_is_not_held_by_what_waits_for_others(running: Running) -> None:
    requests = [
        asked(_prompt(task_seconds=0.5), ref="slow"),
        asked(_prompt(), depends_on=["slow"]),
        *(asked(_prompt()) for _ in range(3)),
    ]
    batch = await ended(running.gateway, await create(running.gateway, requests, max_concurrency=2))
    assert batch.status == COMPLETED
    order = sorted(batch.tasks, key=lambda task: task.submitted_at.ToNanoseconds())
    assert order[1].batch_index != 1, "the second place goes to one that can run"
