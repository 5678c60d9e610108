"""Clients that take earlier results without a bill while others delete them."""

from __future__ import annotations

import asyncio
import contextlib
import random

import aiohttp
import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from chaos.load import PAUSE_SECONDS, TIMEOUT_SECONDS, Load, create, named, until_answered

_MODELS = ("flux-schnell", "dall-e-3", "flux-dev")
_REUSERS = 2
_WITHIN_SECONDS = 3_600
_PATIENCE_SECONDS = 60.0
_APART_SECONDS = 0.02
_ENDED = {
    gateway_pb2.GENERATION_STATUS_SUCCESS,
    gateway_pb2.GENERATION_STATUS_FAILED,
    gateway_pb2.GENERATION_STATUS_CANCELLED,
}


class Races:
    """Deletes of results against requests for the same results.

    Args:
        channel: to the gateway, with the same `key`.
        load: takes the tickets.
        http_url: the gateway's HTTP port, where results are deleted.
        key: an API key.
        seed: of chance.
    """

    def __init__(self, channel: grpc.aio.Channel, load: Load, *, http_url: str, key: str, seed: int) -> None:
        self._gateway = GenerationServiceStub(channel)
        self._load = load
        self._url = f"{http_url}/v1/videos"
        self._headers = {"authorization": f"Bearer {key}"}
        self._seed = seed
        self._chance = random.Random(f"{seed}/reuse")

    async def run(self, *, count: int, seconds: float) -> None:
        """Start `count` races at a steady pace, and see each to its end."""
        async with aiohttp.ClientSession(headers=self._headers) as session, asyncio.TaskGroup() as races:
            for number in range(count):
                races.create_task(self._race(session, f"{self._seed}-r{number}", self._chance.choice(_MODELS)))
                await asyncio.sleep(seconds / count)

    async def _race(self, session: aiohttp.ClientSession, name: str, model: str) -> None:
        waits = [self._chance.uniform(0, _APART_SECONDS) for _ in range(_REUSERS + 1)]
        first = await create(self._gateway, self._load, _request(name, model, f"{name}-first"))
        if await self._end(first.id) != gateway_pb2.GENERATION_STATUS_SUCCESS:
            return
        async with asyncio.TaskGroup() as racers:
            racers.create_task(self._delete(session, first.id, waits[0]))
            for number, wait in enumerate(waits[1:]):
                request = _request(name, model, f"{name}-again{number}")
                request.reuse_within_seconds = _WITHIN_SECONDS
                racers.create_task(self._reuse(request, wait))

    async def _end(self, generation_id: str) -> int:
        look = gateway_pb2.GetGenerationRequest(id=generation_id)
        until = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            answer = await until_answered(
                self._load, lambda: self._gateway.GetGeneration(look, timeout=TIMEOUT_SECONDS)
            )
            status = answer.generation.status
            if status in _ENDED or asyncio.get_running_loop().time() > until:
                return int(status)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _reuse(self, request: gateway_pb2.CreateGenerationRequest, wait_seconds: float) -> None:
        await asyncio.sleep(wait_seconds)
        answer = await create(self._gateway, self._load, request)
        if answer.reused_from_id:
            self._load.reused.add(answer.id)

    async def _delete(self, session: aiohttp.ClientSession, generation_id: str, wait_seconds: float) -> None:
        await asyncio.sleep(wait_seconds)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.delete(f"{self._url}/{generation_id}", timeout=timeout) as reply:
                    # A repeat finds it gone.
                    if reply.status in {200, 404}:
                        self._load.deletes += 1
                        return
            self._load.unanswered += 1
            await asyncio.sleep(PAUSE_SECONDS)


def _request(name: str, model: str, key: str) -> gateway_pb2.CreateGenerationRequest:
    return named(gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=f"once more #{name}"), key)
