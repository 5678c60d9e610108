"""Many streams, connections and requests of one client, and the callers whose latency they may affect."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import aiohttp
import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

HealthStub: Any = health_pb2_grpc.HealthStub
CHECK = health_pb2.HealthCheckRequest()
CHANNELS, PER_CHANNEL = 54, 100
CONNECTIONS = 2_000
_TRIES = 100
_QUIET_SECONDS = 3.0
Active = Callable[[], Awaitable[float]]
"""How many RPCs the gateway is answering."""
# Separate connections: channels of one process to one address share theirs.
_ALONE = (("grpc.use_local_subchannel_pool", 1),)


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
            grpc.aio.insecure_channel(address, options=_ALONE) as gateway,
            grpc.aio.insecure_channel(f"127.0.0.1:{self.health_port}", options=_ALONE) as probed,
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
        milliseconds = sorted([await self._duration_ms(name, make) for _ in range(_TRIES)])
        return milliseconds[_TRIES * 99 // 100 - 1]

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
async def streams(
    address: str, active: Active, open_one: Callable[[grpc.aio.Channel], Any], *, each: int = PER_CHANNEL
) -> AsyncIterator[int]:
    """Streams of one address over several connections, each read once: how many were let in."""
    async with AsyncExitStack() as held:
        channels = [
            await held.enter_async_context(grpc.aio.insecure_channel(address, options=_ALONE)) for _ in range(CHANNELS)
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


async def no_messages() -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


@asynccontextmanager
async def idle_connections(port: int) -> AsyncIterator[int]:
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
async def written(port: int, count: int, content: bytes) -> AsyncIterator[int]:
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
async def flood(port: int, content: bytes, first: bytes = b"", *, closes: bool = False) -> AsyncIterator[int]:
    """Connections of a process of their own, each of which sends this and is opened again when it is closed: zero.

    `closes`: the client closes them, as soon as it has sent this.
    """
    with TemporaryDirectory() as folder:
        for name, written in (("content", content), ("first", first)):
            (Path(folder) / name).write_bytes(written)
        options = ("--close",) if closes else ()
        async with in_own_process("tests.fuzz.flood", str(port), f"{folder}/content", f"{folder}/first", *options):
            yield 0


@asynccontextmanager
async def in_own_process(module: str, *arguments: str) -> AsyncIterator[int]:
    """Run a module in a process of its own, from the first line that it prints. Yields zero."""
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
async def requests(url: str, active: Active, count: int, method: str, path: str, **options: Any) -> AsyncIterator[int]:
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
