"""Many large requests of one key at once: its share of bytes is bounded, and nobody else waits. Figures: `-s`."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections import Counter
from io import BytesIO
from time import perf_counter
from typing import Any

import aiohttp
import grpc
import psutil
import pytest
from darkroom.gateway.v1 import gateway_pb2, images_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from tests.conftest import StartStack
from tests.support.lag import late_turns
from tests.support.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
_MIB = 1024**2
_AT_ONCE = 80
_IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(13 * _MIB)
# Not in proportion to the crowd, whose messages have 1,040 MiB: sixteen messages twice, as gRPC and as Python have
# them, and what a share of bytes lets in on its way to the workers.
_GROWTH_BYTES = 700 * _MIB


class _Watched:
    """What a crowd costs others. `creates`: seconds of each call of another key."""

    def __init__(self, running: Running, key: str) -> None:
        self._running = running
        self._stub = GenerationServiceStub(running.channel_of(key))
        self.creates: list[float] = []
        self.growth_bytes = 0
        self.late_turns = 0.0

    async def during(self, crowd: list[Any]) -> Counter[str]:
        """What became of the calls of a crowd."""
        process = psutil.Process(self._running.stack.children["gateway"].pid)
        before_bytes, before_turns = process.memory_info().rss, await late_turns(self._running, "gateway")
        under_way = asyncio.gather(*crowd)
        request = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="x")
        while not under_way.done():
            began = perf_counter()
            await self._stub.CreateGeneration(request, timeout=60)
            self.creates.append(perf_counter() - began)
            self.growth_bytes = max(self.growth_bytes, process.memory_info().rss - before_bytes)
            await asyncio.sleep(0.02)
        self.late_turns = await late_turns(self._running, "gateway") - before_turns
        return Counter(await under_way)


async def test_large_messages_of_one_key(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",))
    large = GenerationServiceStub(running.channel_of((await running.new_key("large")).key))
    request = images_pb2.PreprocessImageRequest(content=_IMAGE)

    async def call() -> str:
        try:
            await large.PreprocessImage(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    outcomes = await _bounded("gRPC", running, [call() for _ in range(_AT_ONCE)])
    assert outcomes["RESOURCE_EXHAUSTED"] > 0


async def test_large_bodies_of_one_key(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",))
    key = (await running.new_key("large")).key
    body = json.dumps({"content": b64encode(_IMAGE[: 10 * _MIB]).decode()}).encode()
    url = f"{running.gateway_url()}/api/external/images/preprocess"
    connector, headers = aiohttp.TCPConnector(limit=0), {"x-api-key": key, "content-type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def call() -> str:
            async with session.post(url, data=BytesIO(body)) as reply:
                await reply.read()
                return str(reply.status)

        outcomes = await _bounded("REST", running, [call() for _ in range(_AT_ONCE)])
    assert outcomes["429"] > 0


async def _bounded(kind: str, running: Running, crowd: list[Any]) -> Counter[str]:
    """Return what became of a crowd's calls, which must not take much memory nor delay others for long."""
    watched = _Watched(running, (await running.new_key("others")).key)
    outcomes = await watched.during(crowd)
    print(
        f"{kind}: {dict(outcomes)}; slowest create of others {max(watched.creates) * 1_000:.0f} ms of"
        f" {len(watched.creates)}, {watched.growth_bytes // _MIB} MiB more, late {watched.late_turns:.0f}"
    )
    assert watched.growth_bytes < _GROWTH_BYTES
    assert max(watched.creates) < 10
    return outcomes
