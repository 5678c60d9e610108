"""Clients that send as fast as they are answered, so many at once, for so long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import perf_counter

import aiohttp
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.client.channel import open_channel
from sandbox.figures import percentile

Send = Callable[[int], Awaitable[None]]
_WARM_UP_SECONDS = 1.0
# One connection has a lock of its own in gRPC; a few keep it from being what is measured.
_CHANNELS = 4


@dataclass(slots=True)
class Sent:
    """What came back: seconds of each answer, and how long all of it took."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Answers in a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        return percentile(self.latencies, share) * 1_000


async def load(send: Send, *, concurrency: int, seconds: float, begin: Callable[[], None]) -> Sent:
    """Send, after a second to get warm; `begin` is called when it counts."""
    await _while(send, concurrency, _WARM_UP_SECONDS)
    begin()
    return await _while(send, concurrency, seconds)


async def _while(send: Send, concurrency: int, seconds: float) -> Sent:
    sent, began = Sent(), perf_counter()

    async def client(number: int) -> None:
        while perf_counter() - began < seconds:
            asked = perf_counter()
            await send(number)
            sent.latencies.append(perf_counter() - asked)

    await asyncio.gather(*map(client, range(concurrency)))
    sent.seconds = perf_counter() - began
    return sent


class GrpcClients:
    """CreateGeneration over gRPC: 300 bytes, as a caller's request is."""

    def __init__(self, address: str, key: str) -> None:
        self._channels = [open_channel(address, key) for _ in range(_CHANNELS)]
        self._stubs = [GenerationServiceStub(channel) for channel in self._channels]
        self._request = gateway_pb2.CreateGenerationRequest(
            model_identifier="flux-pro", prompt="a red apple on a wooden table, morning light " * 5
        )
        self._request.parameters.update({"size_or_ratio": "16:9", "seed": 7})

    async def send(self, number: int) -> None:
        """One request."""
        await self._stubs[number % _CHANNELS].CreateGeneration(self._request, timeout=60)

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            await channel.close()


class ImageClients:
    """POST /v1/images/generations, which waits for the picture."""

    def __init__(self, url: str, key: str) -> None:
        self._url = f"{url}/v1/images/generations"
        self._session = aiohttp.ClientSession(
            headers={"authorization": f"Bearer {key}"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=120),
        )

    async def send(self, number: int) -> None:
        """One request. Raises for an answer that has no picture."""
        body = {"model": "dall-e-3", "prompt": f"a red apple, number {number}", "response_format": "url"}
        async with self._session.post(self._url, json=body, raise_for_status=True) as reply:
            assert (await reply.json())["data"][0]["url"]

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
