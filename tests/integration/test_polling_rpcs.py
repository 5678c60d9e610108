"""Tasks that another backend submitted itself, and a look at those under way."""

from __future__ import annotations

from typing import Any

import aiohttp
import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.gateway.v1 import gateway_pb2
from darkroom.poller.v1 import poller_pb2
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common.catalog import load
from sandbox.plan import SHIPPED_CATALOG
from tests.conftest import SHARED_CONCURRENT_TASKS
from tests.support.running import SUCCESS, Running
from tests.support.simulator import Simulator, simulated


def _poller(running: Running) -> PollingServiceStub:
    return PollingServiceStub(running.channel("poller"))


async def _submitted_elsewhere(running: Running, simulator: Simulator, **behaviour: Any) -> str:
    """Another backend's own submit; answers the provider's task id."""
    key = running.stack.environment["BFL_API_KEY"]
    body = {"prompt": simulated("theirs", **behaviour), "width": 256, "height": 256}
    url = f"{simulator.url}/bfl/v1/flux-dev"
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers={"x-key": key}) as reply:
        found: dict[str, str] = await reply.json()
    return found["id"]


def _request(task_id: str, /, **fields: Any) -> poller_pb2.AddTaskRequest:
    return poller_pb2.AddTaskRequest(
        **{"task_id": task_id, "provider_id": "bfl", "model_identifier": "flux-dev", "adapter_name": "flux", **fields}
    )


async def test_a_task_handed_in_becomes_a_generation(running: Running, simulator: Simulator) -> None:
    task_id = await _submitted_elsewhere(running, simulator, task_seconds=0.3)

    answer = await _poller(running).AddTask(_request(task_id), timeout=60)
    again = await _poller(running).AddTask(_request(task_id), timeout=60)

    assert (answer.created, again.created) == (True, False)
    assert again.generation_id == answer.generation_id
    generation = await running.ended(answer.generation_id)
    assert (generation.status, generation.provider_task_id) == (SUCCESS, task_id)
    found = await _poller(running).GetTaskStatus(
        poller_pb2.GetTaskStatusRequest(provider_id="bfl", task_id=task_id), timeout=60
    )
    assert found.task.state == poller_pb2.TASK_STATE_SUCCESS
    assert found.task.attempts >= 1
    assert found.task.outputs[0].url


async def test_a_task_can_be_removed(running: Running, simulator: Simulator) -> None:
    task_id = await _submitted_elsewhere(running, simulator, task_seconds=60)
    answer = await _poller(running).AddTask(_request(task_id), timeout=60)
    request = poller_pb2.RemoveTaskRequest(provider_id="bfl", task_id=task_id)

    assert (await _poller(running).RemoveTask(request, timeout=60)).removed
    assert not (await _poller(running).RemoveTask(request, timeout=60)).removed

    generation = await running.get(answer.generation_id)
    assert generation.status == gateway_pb2.GENERATION_STATUS_CANCELLED
    assert generation.error.code == common_pb2.ERROR_CODE_TASK_CANCELLED


async def test_tasks_are_listed_page_by_page(running: Running, simulator: Simulator) -> None:
    ids = {await _submitted_elsewhere(running, simulator, task_seconds=60) for _ in range(5)}
    for task_id in ids:
        await _poller(running).AddTask(_request(task_id, poll_interval_ms=300_000), timeout=60)

    listed: list[str] = []
    token = ""
    while True:
        request = poller_pb2.ListTasksRequest(provider_id="bfl", page_size=2, page_token=token)
        page = await _poller(running).ListTasks(request, timeout=60)
        assert len(page.tasks) <= 2
        listed += [task.task_id for task in page.tasks]
        token = page.next_page_token
        if not token:
            break

    # Tasks of other tests are checked meanwhile, and are then due later.
    assert sorted(task_id for task_id in listed if task_id in ids) == sorted(ids)
    for task_id in ids:
        await _poller(running).RemoveTask(poller_pb2.RemoveTaskRequest(provider_id="bfl", task_id=task_id), timeout=60)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task_id": ""}, "task_id"),
        ({"task_id": "x" * 201}, "task_id"),
        ({"provider_id": "tuzi"}, "provider_id"),
        ({"adapter_name": "kling"}, "adapter_name"),
        ({"max_duration_seconds": 0}, "max_duration_seconds"),
        ({"poll_interval_ms": 99}, "poll_interval_ms"),
        ({"check_url": "http://169.254.169.254/"}, "check_url"),
        ({"check_url": "http://[broken"}, "check_url"),
    ],
)
async def test_a_bad_task_is_refused(running: Running, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _poller(running).AddTask(_request("some-task", **fields), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(f"{field}:")


@pytest.mark.parametrize("request_fields", [{"page_size": -1}, {"page_size": 1_001}, {"page_token": "nonsense"}])
async def test_a_bad_page_is_refused(running: Running, request_fields: dict[str, Any]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _poller(running).ListTasks(poller_pb2.ListTasksRequest(**request_fields), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_unknown_task_is_not_found(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _poller(running).GetTaskStatus(
            poller_pb2.GetTaskStatusRequest(provider_id="bfl", task_id="none"), timeout=60
        )
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_queue_shows_every_provider_account(running: Running) -> None:
    dispatcher = DispatcherServiceStub(running.channel("dispatcher"))
    answer = await dispatcher.GetQueue(dispatcher_pb2.GetQueueRequest(), timeout=60)
    limits = {queue.provider_id: queue.concurrent_tasks_limit for queue in answer.providers}
    assert set(limits) == set(load(SHIPPED_CATALOG).providers)
    assert (limits["bfl"], limits["tuzi"]) == (SHARED_CONCURRENT_TASKS, 0)
