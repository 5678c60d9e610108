"""Watching: each change until the end, whichever replica made it, for the price of one question a tick."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from time import monotonic
from typing import Any, cast

import aiohttp
import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common.database.engine import Database
from tests.conftest import CALM, StartStack
from tests.support.closing import cancelling, in_progress
from tests.support.rows import execute
from tests.support.running import SUCCESS, Running
from tests.support.simulator import simulated
from tests.support.waiting import eventually

PENDING, PROCESSING = gateway_pb2.GENERATION_STATUS_PENDING, gateway_pb2.GENERATION_STATUS_PROCESSING


async def _watch(
    stub: GenerationServiceStub, generation_id: str, resume_token: str = ""
) -> list[gateway_pb2.WatchGenerationResponse]:
    request = gateway_pb2.WatchGenerationRequest(id=generation_id, resume_token=resume_token)
    return [change async for change in stub.WatchGeneration(request, timeout=30)]


def _distinct(changes: list[gateway_pb2.WatchGenerationResponse]) -> list[int]:
    statuses = [change.generation.status for change in changes]
    return [status for place, status in enumerate(statuses) if place == 0 or statuses[place - 1] != status]


async def test_changes_come_until_the_end_also_from_another_replica(start_stack: StartStack) -> None:
    running = await start_stack()
    replica = await running.stack_replica("gateway")
    key = (await running.new_key("acme")).key
    here, there = (GenerationServiceStub(running.channel_of(key, replica=name)) for name in ("gateway", replica))
    await there.ListModels(gateway_pb2.ListModelsRequest(), timeout=60, wait_for_ready=True)
    prompt = simulated("watched", task_seconds=1.0)
    request = gateway_pb2.CreateGenerationRequest(model_identifier="kling-v1-6", prompt=prompt)
    generation_id = (await here.CreateGeneration(request, timeout=60)).id
    for changes in await asyncio.gather(_watch(here, generation_id), _watch(there, generation_id)):
        assert _distinct(changes)[-2:] == [PROCESSING, SUCCESS]
        assert changes[-1].generation.results
        tokens = [change.resume_token for change in changes]
        assert len(set(tokens)) == len(tokens)


async def test_a_stream_goes_on_from_its_token(running: Running) -> None:
    generation_id = await running.create("flux-pro", simulated("resumed", task_seconds=0.2))
    await running.ended(generation_id)
    (end,) = await _watch(running.gateway, generation_id)
    assert end.generation.status == SUCCESS
    assert await _watch(running.gateway, generation_id, end.resume_token) == []
    assert len(await _watch(running.gateway, generation_id, "PROCESSING.1.0.0.0")) == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _watch(running.gateway, generation_id, "x" * 1_000)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def _events(running: Running, generation_id: str, last: str = "") -> AsyncIterator[tuple[str, str, str]]:
    url = f"{running.gateway_url()}/api/external/generation/{generation_id}/events"
    headers = {"x-api-key": running.admin_key, **({"Last-Event-ID": last} if last else {})}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as reply:
        assert (reply.status, reply.content_type) == (200, "text/event-stream")
        fields: dict[str, str] = {}
        async for line in reply.content:
            name, _, value = line.decode().rstrip("\r\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield fields.get("event", ""), fields.get("id", ""), fields["data"]
                fields = {}


async def test_events_come_over_http_and_go_on_from_the_last_id(running: Running) -> None:
    generation_id = await running.create("flux-pro", simulated("events", task_seconds=0.5))
    seen = [event async for event in _events(running, generation_id)]
    assert {name for name, _, _ in seen} == {"change"}
    assert json.loads(seen[-1][2])["generation"]["status"] == "SUCCESS"
    assert [event async for event in _events(running, generation_id, last=seen[-1][1])] == []


@pytest.mark.timeout(300)
@pytest.mark.slow
async def test_a_thousand_watchers_see_one_change(start_stack: StartStack, database: Database) -> None:
    settings = {**CALM, "DARKROOM_WATCH_INTERVAL_SECONDS": "0.25"}
    running = await start_stack(services=("gateway",), settings=settings)
    key = (await running.new_key("acme")).key
    stub = GenerationServiceStub(running.channel_of(key))
    asked = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="x")
    ids = [answer.id for answer in await asyncio.gather(*(stub.CreateGeneration(asked) for _ in range(1_000)))]
    seen: dict[str, float] = {}

    async def watch(generation_id: str) -> None:
        request = gateway_pb2.WatchGenerationRequest(id=generation_id)
        with cancelling(stub.WatchGeneration(request)) as stream:
            async for change in stream:
                seen[change.generation.id] = monotonic()
                if change.generation.status == PROCESSING:
                    return

    async def watch_all() -> None:
        await asyncio.gather(*(watch(generation_id) for generation_id in ids))

    async def all_have_begun() -> bool:
        return len(seen) == len(ids)

    async with in_progress(watch_all()) as streams:
        await eventually(all_have_begun, within=60, what="a thousand streams have begun")
        assert await running.metric("gateway", "darkroom_gateway_watchers") == 1_000
        changed = monotonic()
        await execute(database, "UPDATE generation_requests SET state = 'PROCESSING', provider_task_id = id")
        await streams
    assert max(seen.values()) - changed < 10


async def _to_the_end(stream: Any) -> tuple[str, grpc.StatusCode]:
    """The last token, and how it ended."""
    token = ""
    try:
        async for change in stream:
            token = change.resume_token
    except grpc.aio.AioRpcError as error:
        return token, error.code()
    return token, grpc.StatusCode.OK


@asynccontextmanager
async def _unread_events(running: Running, generation_id: str) -> AsyncIterator[None]:
    """Ask for events over HTTP and read none, until the block ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.stack.plan.ports.gateway_http)
    with closing(writer):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        path = f"/api/external/generation/{generation_id}/events"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {running.admin_key}\r\n\r\n".encode())
        await reader.readline()
        cast("asyncio.Transport", writer.transport).pause_reading()
        yield


async def test_who_does_not_read_is_dropped(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_WATCH_WRITE_TIMEOUT_SECONDS": "1"})
    generation_id = await running.create("flux-pro", "x")
    # Each change is large, so that what nobody reads fills the buffers on the way.
    await execute(database, "UPDATE generation_requests SET prompt = repeat('x', 500000)")
    stub = running.gateway
    with cancelling(stub.WatchGeneration(gateway_pb2.WatchGenerationRequest(id=generation_id))) as stream:
        await stream.read()
        async with _unread_events(running, generation_id):

            async def dropped() -> bool:
                await execute(database, "UPDATE generation_requests SET attempts = attempts + 1")
                return await running.metric("gateway", "darkroom_gateway_watchers") == 0

            await eventually(dropped, within=60, what="both are dropped")
        seen, status = await _to_the_end(stream)
    assert status is grpc.StatusCode.UNAVAILABLE
    # The token goes on where it broke.
    request = gateway_pb2.WatchGenerationRequest(id=generation_id, resume_token=seen)
    with cancelling(stub.WatchGeneration(request)) as again:
        assert isinstance(await again.read(), gateway_pb2.WatchGenerationResponse)
