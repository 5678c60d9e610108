"""Crowds of one address and one key, held open: what they cost everybody else. Figures are printed (`-s`)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import aiohttp
import grpc
import psutil
import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sandbox.processes import free_port
from tests.conftest import StartStack
from tests.fuzz import frames
from tests.support.console import SESSION, visitor
from tests.support.ports import can_connect
from tests.support.relays import relay
from tests.support.running import Running
from tests.support.waiting import eventually

HealthStub: Any = health_pb2_grpc.HealthStub
CHECK = health_pb2.HealthCheckRequest()
CHANNELS, PER_CHANNEL = 6, 900
CONNECTIONS = 2_000
TRIES = 100
_QUIET_SECONDS = 3.0
# More calls than a connection lasts for.
_RESET = 100_000
_FRAMES_BYTES = 256 * 1024**2
Active = Callable[[], Awaitable[float]]
"""How many RPCs the gateway is answering."""
# Separate connections: channels of one process to one address share theirs.
ALONE = (("grpc.use_local_subchannel_pool", 1),)


@dataclass
class Others:
    """Callers at another address, with another key: how long each call took, and what failed."""

    key: str
    grpc_port: int
    health_port: int
    http_url: str
    connector: Callable[[], aiohttp.TCPConnector]
    failures: dict[str, list[str]] = field(default_factory=dict)

    async def figures(self) -> dict[str, float]:
        """The 99th percentile of each kind of call in milliseconds. A call that fails counts as one without an end."""
        self.failures.clear()
        address = f"127.0.0.1:{self.grpc_port}"
        async with (
            grpc.aio.insecure_channel(address, options=ALONE) as gateway,
            grpc.aio.insecure_channel(f"127.0.0.1:{self.health_port}", options=ALONE) as probed,
            aiohttp.ClientSession(connector=self.connector(), headers={"x-api-key": self.key}) as http,
        ):
            stub = GenerationServiceStub(gateway)
            asked = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="x")
            metadata = (("x-api-key", self.key),)
            body = {"modelIdentifier": "flux-pro", "prompt": "x"}

            async def rest(method: str, path: str, **options: Any) -> None:
                async with http.request(method, self.http_url + path, **options) as reply:
                    reply.raise_for_status()
                    await reply.read()

            kinds: dict[str, Callable[[], Awaitable[Any]]] = {
                "create": lambda: stub.CreateGeneration(asked, metadata=metadata, timeout=10),
                "probe": lambda: HealthStub(gateway).Check(CHECK, timeout=5),
                "health port": lambda: HealthStub(probed).Check(CHECK, timeout=5),
                "REST create": lambda: rest("POST", "/api/external/generation", json=body),
                "REST health": lambda: rest("GET", "/api/health"),
            }
            return {name: await self._p99(name, make) for name, make in kinds.items()}

    async def _p99(self, name: str, make: Callable[[], Awaitable[Any]]) -> float:
        milliseconds = sorted([await self._duration_ms(name, make) for _ in range(TRIES)])
        return milliseconds[TRIES * 99 // 100 - 1]

    async def _duration_ms(self, name: str, make: Callable[[], Awaitable[Any]]) -> float:
        began = perf_counter()
        try:
            async with asyncio.timeout(15):
                await make()
        except (grpc.aio.AioRpcError, aiohttp.ClientError, OSError, TimeoutError) as error:
            text = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            self.failures.setdefault(name, []).append(f"{type(error).__name__}: {text}"[:100])
            return inf
        return (perf_counter() - began) * 1_000


async def _settled(opening: list[asyncio.Task[Any]], active: Active) -> None:
    """Wait until no more of them are begun or refused."""
    before: tuple[int, float] | None = None
    while before != (before := (sum(task.done() for task in opening), await active())):
        await asyncio.wait(opening, timeout=_QUIET_SECONDS, return_when=asyncio.ALL_COMPLETED)


@asynccontextmanager
async def _streams(
    address: str, active: Active, open_one: Callable[[grpc.aio.Channel], Any], *, each: int = PER_CHANNEL
) -> AsyncIterator[int]:
    """Streams of one address over several connections, each read once: how many were let in."""
    async with AsyncExitStack() as held:
        channels = [
            await held.enter_async_context(grpc.aio.insecure_channel(address, options=ALONE)) for _ in range(CHANNELS)
        ]
        calls = [open_one(channel) for channel in channels for _ in range(each)]
        opening = [asyncio.ensure_future(call.read()) for call in calls]
        try:
            await _settled(opening, active)
            yield sum(not task.done() or not task.exception() for task in opening)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*opening, return_exceptions=True)


async def _no_questions() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


@asynccontextmanager
async def _idle_connections(port: int) -> AsyncIterator[int]:
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(b"GET /nope HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")

    opened = 0
    for _ in range(0, CONNECTIONS, 100):
        found = await asyncio.gather(*(connect() for _ in range(100)), return_exceptions=True)
        opened += sum(not isinstance(error, BaseException) for error in found)
    try:
        yield opened
    finally:
        for writer in writers:
            writer.close()


@asynccontextmanager
async def _written(port: int, count: int, content: bytes) -> AsyncIterator[int]:
    """Connections of one address that send this and stay: how many the service has not closed a second later."""
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened.append((reader, writer))
        writer.write(content)

    async def is_open(reader: asyncio.StreamReader) -> bool:
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1.0):
                while await reader.read(65_536):
                    pass
                return False
        return not reader.at_eof() and reader.exception() is None

    for _ in range(0, count, 100):
        await asyncio.gather(*(connect() for _ in range(min(100, count))), return_exceptions=True)
    try:
        yield sum(await asyncio.gather(*(is_open(reader) for reader, _ in opened)))
    finally:
        for _, writer in opened:
            writer.close()


@asynccontextmanager
async def _flood(port: int, content: bytes, first: bytes = b"") -> AsyncIterator[int]:
    """Connections of a process of their own, each of which sends this and is opened again when it is closed: zero."""
    with TemporaryDirectory() as folder:
        for name, written in (("content", content), ("first", first)):
            (Path(folder) / name).write_bytes(written)
        async with _apart("tests.fuzz.flood", str(port), f"{folder}/content", f"{folder}/first"):
            yield 0


@asynccontextmanager
async def _apart(module: str, *arguments: str) -> AsyncIterator[int]:
    """A module of tests in a process of its own, from the first line that it prints on: zero."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield 0
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _requests(url: str, active: Active, count: int, method: str, path: str, **options: Any) -> AsyncIterator[int]:
    """HTTP requests of one address that go on: how many were not refused within a few seconds."""

    async def one(session: aiohttp.ClientSession) -> None:
        async with session.request(method, url + path, **options) as reply:
            reply.raise_for_status()
            await asyncio.Event().wait()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:
        tasks = [asyncio.create_task(one(session)) for _ in range(count)]
        await _settled(tasks, active)
        try:
            yield sum(not task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


Crowd = Callable[[], Any]
SERVICE = "/darkroom.gateway.v1.GenerationService"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass
class Held:
    """What a crowd asks for: a generation and a batch of its key, and pages of the console."""

    key: str
    generation_id: str
    batch_id: str
    session: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The key, as metadata."""
        return (("x-api-key", self.key),)


async def _held(running: Running, open_now: AsyncExitStack) -> Held:
    key = (await running.new_key("crowd")).key
    stub = GenerationServiceStub(running.channel_of(key))
    request = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="x")
    generation_id = (await stub.CreateGeneration(request, timeout=10)).id
    batch = gateway_pb2.CreateBatchRequest(requests=[request] * 1_000)
    batch_id = (await stub.CreateBatch(batch, timeout=60)).batch_id
    ops = await open_now.enter_async_context(visitor(running.gateway_url()))
    await ops.sign_in((await running.new_key("ops", role=admin_pb2.API_KEY_ROLE_ADMIN)).key)
    return Held(key, generation_id, batch_id, ops.cookies[SESSION])


def _half_open(method: str, metadata: Any = ()) -> Callable[[grpc.aio.Channel], Any]:
    """Opens calls whose message does not come."""

    def open_one(channel: grpc.aio.Channel) -> Any:
        make: Any = channel.stream_stream(method)
        return make(_no_questions(), metadata=metadata)

    return open_one


def _grpc_crowds(running: Running, health_port: int, held: Held, active: Active) -> dict[str, Crowd]:
    address = f"127.0.0.1:{running.gateway_port()}"
    to_watch = gateway_pb2.WatchGenerationRequest(id=held.generation_id)
    to_watch_batch = gateway_pb2.WatchBatchRequest(batch_id=held.batch_id)

    def of(open_one: Callable[[grpc.aio.Channel], Any]) -> Crowd:
        return lambda: _streams(address, active, open_one)

    return {
        "health Watch": of(lambda channel: HealthStub(channel).Watch(CHECK)),
        "health Watch at the health port": lambda: _streams(
            f"127.0.0.1:{health_port}", active, lambda channel: HealthStub(channel).Watch(CHECK), each=50
        ),
        "reflection": of(_half_open(REFLECTION)),
        "health Check without a message": of(_half_open("/grpc.health.v1.Health/Check")),
        "WatchGeneration": of(
            lambda channel: GenerationServiceStub(channel).WatchGeneration(to_watch, metadata=held.metadata)
        ),
        "WatchBatch": of(
            lambda channel: GenerationServiceStub(channel).WatchBatch(to_watch_batch, metadata=held.metadata)
        ),
        "UploadBatch without an end": of(_half_open(f"{SERVICE}/UploadBatch", held.metadata)),
        "CreateGeneration without a message": of(_half_open(f"{SERVICE}/CreateGeneration", held.metadata)),
    }


def _connection_crowds(running: Running, health_port: int, held: Held) -> dict[str, Crowd]:
    ports, begun, endless = running.stack.plan.ports, frames.unfinished(0), frames.unfinished(16 * 1024**2)
    check, create, key = b"/grpc.health.v1.Health/Check", f"{SERVICE}/CreateGeneration".encode(), held.key.encode()
    listing = f"{SERVICE}/ListModels".encode()
    grpc_port, metrics_port = running.gateway_port(), ports.metrics["gateway"]
    return {
        "idle gRPC connections": lambda: _written(grpc_port, CONNECTIONS, begun),
        "idle connections to the health port": lambda: _written(health_port, CONNECTIONS, begun),
        "idle connections to the metrics port": lambda: _written(metrics_port, CONNECTIONS, b"GET /metrics HTTP/1.1"),
        "health checks whose answers nobody reads": lambda: _written(grpc_port, 20, frames.unread(check, 900)),
        "lists whose answers nobody reads": lambda: _written(
            grpc_port, 20, frames.unread(f"{SERVICE}/ListGenerations".encode(), 900, key=held.key.encode())
        ),
        "health checks that are reset at once": lambda: _written(grpc_port, 20, frames.cancelled(check, 20_000)),
        "calls of nothing that are reset at once": lambda: _written(grpc_port, 20, frames.cancelled(b"/a/b", 20_000)),
        "health checks that are reset at once, for ever": lambda: _flood(grpc_port, frames.cancelled(check, _RESET)),
        "creates that are reset at once, for ever": lambda: _flood(
            grpc_port, frames.cancelled(create, _RESET, key=key)
        ),
        "creates that are reset before their message, for ever": lambda: _flood(
            grpc_port, frames.cancelled(create, _RESET, key=key, message=None)
        ),
        "health checks whose answers nobody reads, for ever": lambda: _flood(grpc_port, frames.unread(check, 900)),
        "SETTINGS after a call with a key, for ever": lambda: _flood(
            grpc_port, frames.of_no_call(_FRAMES_BYTES), frames.one_call(listing, key)
        ),
        "undefined frames after a call with a key, for ever": lambda: _flood(
            grpc_port, frames.of_no_call(_FRAMES_BYTES, 0x20, bytes(16_000)), frames.one_call(listing, key)
        ),
        "headers without an end, for ever": lambda: _flood(grpc_port, endless),
        "headers without an end": lambda: _written(grpc_port, 30, endless),
        "headers without an end at the health port": lambda: _written(health_port, 30, endless),
    }


def _http_crowds(running: Running, held: Held, active: Active) -> dict[str, Crowd]:
    url, of_key = running.gateway_url(), dict(held.metadata)
    events = f"/api/external/generation/{held.generation_id}/events"
    page = {"cookie": f"{SESSION}={held.session}", "accept": "text/event-stream"}
    image = {"model": "flux-pro", "prompt": "x"}
    port = running.stack.plan.ports.gateway_http
    posted = b"POST /api/webhooks/replicate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return {
        "chunks of one byte": lambda: _written(port, 50, posted + b"1\r\n \r\n" * 700_000),
        "trailers without an end": lambda: _written(port, 50, posted + b"0\r\n" + b"a: b\r\n" * 700_000),
        "lists of a thousand, 50 at once, for ever": lambda: _apart(
            "tests.fuzz.repeating", str(port), "/api/external/generation?pageSize=1000", held.key, "50"
        ),
        "lists of fifty, 50 at once, for ever": lambda: _apart(
            "tests.fuzz.repeating", str(port), "/api/external/generation", held.key, "50"
        ),
        "the OpenAPI document, 50 at once, for ever": lambda: _apart(
            "tests.fuzz.repeating", str(port), "/api/openapi.json", "", "50"
        ),
        "idle connections": lambda: _idle_connections(running.stack.plan.ports.gateway_http),
        "events over HTTP": lambda: _requests(url, active, CONNECTIONS, "GET", events, headers=of_key),
        "live pages": lambda: _requests(url, active, 300, "GET", "/admin", headers=page),
        "waiting OpenAI calls": lambda: _requests(
            url, active, 1_000, "POST", "/v1/images/generations", headers=of_key, json=image
        ),
    }


# Part of the names of crowds: the others are left out.
_ONLY = os.environ.get("DARKROOM_TEST_CROWDS", "")


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_a_crowd_of_one_address_and_key_locks_nobody_out(start_stack: StartStack) -> None:
    health_port = free_port()
    settings = {"DARKROOM_HEALTH_PORT": str(health_port), "DARKROOM_CONSOLE_LIVE_SECONDS": "30"}
    running = await start_stack(services=("gateway",), settings=settings)
    locked_out: dict[str, Any] = {}
    process = psutil.Process(running.stack.children["gateway"].pid)

    async def active() -> float:
        return await running.metric("gateway", "darkroom_rpc_active")

    async with (
        AsyncExitStack() as held,
        relay(running.gateway_port(), "127.0.0.2") as grpc_port,
        relay(health_port, "127.0.0.2") as probed,
    ):
        others = Others(
            (await running.new_key("others")).key,
            grpc_port,
            probed,
            running.gateway_url(),
            lambda: aiohttp.TCPConnector(local_addr=("127.0.0.2", 0)),
        )
        _show("nobody", 0, await others.figures())
        wanted = await _held(running, held)
        crowds = (
            _grpc_crowds(running, health_port, wanted, active)
            | _connection_crowds(running, health_port, wanted)
            | _http_crowds(running, wanted, active)
        )
        for name, crowd in crowds.items():
            if _ONLY not in name:
                continue
            for port in (running.gateway_port(), health_port):
                # The crowd before may have had its address blocked.
                await eventually(partial(can_connect, port), within=30, what="the address of the crowd is let in")
            async with crowd() as let_in:
                figures = await others.figures()
            _show(name, let_in, figures)
            print(f"  resident memory of the gateway: {process.memory_info().rss // 1024**2} MiB")
            if others.failures:
                print(f"  failed: { {kind: (len(texts), texts[0]) for kind, texts in others.failures.items()} }")
            if inf in figures.values():
                locked_out[name] = dict(others.failures)
    assert not locked_out, locked_out


def _show(name: str, let_in: int, figures: dict[str, float]) -> None:
    shown = ", ".join(f"{kind} {p99:.1f}" for kind, p99 in figures.items())
    print(f"{name}: {let_in} let in; p99 of others in ms: {shown}")
