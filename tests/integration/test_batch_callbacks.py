"""Callbacks of a batch: its progress, as often as was asked for, and its end, signed and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from tests.support.asked import asked, create, ended
from tests.support.receiver import Receiver, receiver
from tests.support.running import Running
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually


@pytest.fixture
async def hook() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found


async def test_progress_and_end_come_signed_and_in_order(running: Running, hook: Receiver) -> None:
    made = await running.new_key("batcher", callback_url=hook.url)
    client = GenerationServiceStub(running.channel_of(made.key))
    requests = [asked(simulated(f"told {n}", task_seconds=0.3, faults=FAILS if not n else [])) for n in range(6)]
    batch_id = await create(client, requests, max_concurrency=1, callback_every_tasks=2)
    await ended(client, batch_id)

    async def has_been_told() -> bool:
        return bool(hook.received) and hook.received[-1].json["type"] == "batch.partial_failed"

    await eventually(has_been_told, within=20, what="the end was told")
    payloads = [request.verified(made.callback_secret) for request in hook.received]
    assert [payload["type"] for payload in payloads[:-1]] == ["batch.progress"] * (len(payloads) - 1)
    assert len(payloads) >= 3
    counts = [payload["data"]["progress"] for payload in payloads]
    assert counts == sorted(counts)
    assert payloads[-1]["data"] | {"requestId": ""} == {
        "batchId": batch_id, "status": "PARTIAL_FAILED", "totalTasks": 6, "completedTasks": 5, "failedTasks": 1,
        "cancelledTasks": 0, "skippedTasks": 0, "progress": 100, "costUsd": 0.2, "requestId": "",
    }  # fmt: skip
    number = batch_id.removeprefix("batch_")
    assert [key for key, _ in hook.events()] == [f"cb_{number}_{n + 1}" for n in range(len(payloads))]

    asking = gateway_pb2.ListCallbacksRequest(batch_id=batch_id)
    listed = (await client.ListCallbacks(asking, timeout=60)).callbacks
    assert {callback.batch_id for callback in listed} == {batch_id}
    again = (await client.ReplayCallback(gateway_pb2.ReplayCallbackRequest(id=listed[0].id), timeout=60)).callback
    assert (again.event, again.generation_id) == ("batch.partial_failed", "")
