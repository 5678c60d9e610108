"""Automatic retries of a client, without an idempotency key: whichever gateway they reach, one bill."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import httpx2
import openai
import pytest
import sqlalchemy as sa
from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.engine import Database
from services.gateway.openai.errors import GENERATION_ID_HEADER
from tests.conftest import StartStack
from tests.support.client_calls import is_waiting, made_generations
from tests.support.closing import in_progress
from tests.support.http import call
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

# A connection of the client's whose gateway is killed or frozen is closed when it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def _client(key: str, urls: Mapping[str, str], *, timeout_seconds: float = 2.0) -> openai.AsyncOpenAI:
    """OpenAI's client. It sends first tries to the one gateway and retries to the other."""

    async def route(request: httpx2.Request) -> None:
        is_retry = request.headers.get("x-stainless-retry-count", "0") != "0"
        request.url = httpx2.URL(urls["retry" if is_retry else "first"] + request.url.path)

    http = httpx2.AsyncClient(event_hooks={"request": [route]})
    return openai.AsyncOpenAI(
        base_url=f"{urls['first']}/v1", api_key=key, timeout=timeout_seconds, max_retries=4, http_client=http
    )


async def _two_gateways(start_stack: StartStack) -> tuple[Running, dict[str, str], str]:
    running = await start_stack()
    replica = await running.stack_replica("gateway")
    urls = {"first": running.gateway_url(), "retry": running.gateway_url(replica)}

    async def serves() -> bool:
        try:
            return (await call(urls["retry"], "/api/health")).status == 200
        except aiohttp.ClientError:
            return False

    await eventually(serves, within=20, what="the second gateway serves")
    return running, urls, (await running.new_key("acme")).key


async def test_a_retry_at_another_gateway_joins_a_first_try_that_is_not_committed_yet(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    _, urls, key = await _two_gateways(start_stack)
    prompt = simulated("openai over two gateways", task_seconds=0)
    engine = sa.create_engine(database.engine.url, poolclass=sa.NullPool)
    async with _client(key, urls) as client:
        with engine.connect() as blocking:
            blocking.execute(sa.text("LOCK TABLE generation_requests IN SHARE MODE"))
            making = asyncio.create_task(client.images.generate(model="flux-pro", prompt=prompt))
            await eventually(lambda: is_waiting(database, 2), within=20, what="the try and its retry are committed")
            blocking.rollback()
        assert (await making).data
    assert len(await simulator.bills(prompt)) == 1


async def test_a_retry_at_another_gateway_joins_a_first_try_whose_gateway_was_killed(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    running, urls, key = await _two_gateways(start_stack)
    prompt = simulated("openai over a killed gateway", task_seconds=2)

    async def is_committed() -> bool:
        return bool(await rows(database, "SELECT id FROM generation_requests WHERE prompt = :prompt", prompt=prompt))

    async with _client(key, urls, timeout_seconds=30) as client:
        making = asyncio.create_task(client.images.generate(model="flux-pro", prompt=prompt))
        await eventually(is_committed, within=20, what="the first try is committed")
        running.stack.kill("gateway")
        assert (await making).data
    assert len(await simulator.bills(prompt)) == 1
    assert len(await made_generations(database)) == 1


async def test_a_first_try_that_its_gateway_reads_after_the_client_has_left_creates_nothing(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    running, urls, key = await _two_gateways(start_stack)
    prompt = simulated("openai over a frozen gateway", task_seconds=0)
    running.stack.children["gateway"].send(signal.SIGSTOP)
    try:
        async with _client(key, urls) as client:
            assert (await client.images.generate(model="flux-pro", prompt=prompt)).data
    finally:
        running.stack.children["gateway"].send(signal.SIGCONT)
    # The gateway reads what was sent to it before this.
    reply = await call(urls["first"], "/v1/models", key=key)
    assert reply.status == 200
    assert len(await made_generations(database)) == 1
    assert len(await simulator.bills(prompt)) == 1


async def test_two_identical_first_tries_of_the_client_are_two_generations(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    running, urls, key = await _two_gateways(start_stack)
    prompt = simulated("openai twice", task_seconds=0)
    async with _client(key, urls, timeout_seconds=30) as client:
        both = await asyncio.gather(*(client.images.generate(model="flux-pro", prompt=prompt) for _ in range(2)))
    assert all(one.data for one in both)
    assert len(await simulator.bills(prompt)) == 2

    async def are_noted() -> bool:
        sql = """SELECT count(*) AS answered FROM idempotency_keys, jsonb_each(fields) made
            WHERE jsonb_typeof(made.value -> 'answered_at') = 'number'"""
        (found,) = await rows(database, sql)
        return bool(found["answered"] == 2)

    await eventually(are_noted, within=10, what="the answers are recorded")
    body = {"model": "flux-pro", "prompt": prompt}
    headers = {"x-stainless-retry-count": "1"}
    reply = await call(urls["retry"], "/v1/images/generations", method="POST", key=key, json_body=body, headers=headers)
    assert reply.headers[GENERATION_ID_HEADER] in await made_generations(database)
    generation = await running.get(reply.headers[GENERATION_ID_HEADER])
    assert generation.status == gateway_pb2.GENERATION_STATUS_SUCCESS
    assert len(await simulator.bills(prompt)) == 2


async def test_the_repeat_that_follows_at_once_joins_the_call_whose_connection_broke(
    running: Running, simulator: Simulator
) -> None:
    key = (await running.new_key("at once")).key
    url = f"{running.gateway_url()}/v1/images/generations"

    async def ask(prompt: str) -> None:
        body = {"model": "flux-pro", "prompt": prompt}
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await _ask(session, url, body)
            status, answer = await _ask(session, url, body)
        assert (status, len(answer["data"])) == (200, 1)

    prompts = [simulated(f"repeated at once {number}", task_seconds=2) for number in range(12)]
    await asyncio.gather(*map(ask, prompts))
    assert [len(await simulator.bills(prompt)) for prompt in prompts] == [1] * len(prompts)


async def test_the_repeat_of_a_client_that_counts_none_joins_the_call_whose_connection_broke(
    running: Running, simulator: Simulator
) -> None:
    key, prompt = (await running.new_key("uncounted")).key, simulated("connection breaks", task_seconds=1.5)
    body = {"model": "flux-pro", "prompt": prompt}
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        url = f"{running.gateway_url()}/v1/images/generations"

        async def made() -> bool:
            return len(await simulator.bills(prompt)) == 1

        async with in_progress(_ask(session, url, body)):
            await eventually(made, within=10, what="the provider has taken it")
        # The connection is closed with the cancelled call; the client tries again.
        status, answer = await _ask(session, url, body)
        assert (status, len(answer["data"])) == (200, 1)
        assert len(await simulator.bills(prompt)) == 1
        # Another one is another one.
        assert (await _ask(session, url, body))[0] == 200
    assert len(await simulator.bills(prompt)) == 2


@pytest.mark.parametrize("resets", [True, False], ids=["reset", "closed"])
async def test_the_repeat_of_a_client_that_leaves_at_any_moment_joins_its_call(
    running: Running, simulator: Simulator, resets: bool
) -> None:
    """Before, during and after the commit and the answer, which take some 10 ms."""
    key, port = (await running.new_key("hasty")).key, running.stack.plan.ports.gateway_http
    prompts = [simulated(f"leaves after {number} ms", task_seconds=0.5) for number in range(1, 26)]
    for number, prompt in enumerate(prompts, 1):
        asked = _video_request(key, prompt)
        left = await asyncio.to_thread(_leaves, port, asked, after_seconds=number / 1_000, resets=resets)
        assert left.fileno() == -1
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()

    async def all_billed() -> bool:
        return {bill["prompt"] for bill in await simulator.bills()} >= set(prompts)

    await eventually(all_billed, within=10, what="all are billed")
    assert [len(await simulator.bills(prompt)) for prompt in prompts] == [1] * len(prompts)


def _video_request(key: str, prompt: str) -> bytes:
    body = json.dumps({"model": "sora-2", "prompt": prompt, "seconds": "4", "size": "1280x720"}).encode()
    head = f"POST /v1/videos HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json"
    return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _leaves(port: int, asked: bytes, *, after_seconds: float, resets: bool) -> socket.socket:
    """A connection that was closed after so long, the answer unread."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(asked)
        time.sleep(after_seconds)
        if resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return connection


async def _ask(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    async with session.post(url, json=body) as response:
        return response.status, await response.json()
