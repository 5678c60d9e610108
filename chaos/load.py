"""Clients that send generations at a steady pace over all models, and cancel some, whatever is broken meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from google.protobuf.struct_pb2 import Struct

_TIMEOUT_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_WORDS = ("a red apple", "a lighthouse in fog", "a paper boat", "a darkroom", "an owl", "a tram at night")
_CANCELLED_SHARE = 0.02
_WITH_FALLBACK_SHARE = 0.1


@dataclass(slots=True)
class Load:
    """What was sent.

    `tickets` and `batches` are the ids that were answered; `unanswered` counts requests whose answer was lost.
    """

    tickets: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    unanswered: int = 0
    cancels: int = 0
    resumes: int = 0


async def send(
    channel: grpc.aio.Channel, load: Load, *, seed: int, count: int, seconds: float, models: Sequence[str]
) -> None:
    """Send until `count` tickets are in hand. A request whose answer is lost is sent again under the same name."""
    gateway = GenerationServiceStub(channel)
    chance = random.Random(f"{seed}/load")
    clients: set[asyncio.Task[None]] = set()
    for number in range(count):
        asked = _request(seed, number, models[number % len(models)], chance)
        cancels = chance.random() < _CANCELLED_SHARE
        client = asyncio.create_task(_until_answered(gateway, load, asked, cancels=cancels))
        clients.add(client)
        client.add_done_callback(clients.discard)
        await asyncio.sleep(seconds / count)
    while clients:
        await asyncio.gather(*clients)


def _request(seed: int, number: int, model: str, chance: random.Random) -> gateway_pb2.CreateGenerationRequest:
    parameters = Struct()
    if model == "flux-pro":
        parameters.update({"size_or_ratio": "256x256"})
    fallbacks = ["flux-dev-fal", "dall-e-3"] if model == "flux-dev" and chance.random() < _WITH_FALLBACK_SHARE else []
    return gateway_pb2.CreateGenerationRequest(
        model_identifier=model,
        prompt=f"{_WORDS[number % len(_WORDS)]} #{seed}-{number}",
        idempotency_key=f"{seed}-{number}",
        parameters=parameters,
        priority=number % 10,
        fallback_models=fallbacks,
    )


async def _until_answered(
    gateway: GenerationServiceStub, load: Load, asked: gateway_pb2.CreateGenerationRequest, *, cancels: bool
) -> None:
    generation_id = ""
    while not generation_id:
        try:
            generation_id = (await gateway.CreateGeneration(asked, timeout=_TIMEOUT_SECONDS)).id
        except grpc.aio.AioRpcError:
            load.unanswered += 1
            await asyncio.sleep(_PAUSE_SECONDS)
    load.tickets.add(generation_id)
    if cancels:
        try:
            request = gateway_pb2.CancelGenerationRequest(id=generation_id)
            await gateway.CancelGeneration(request, timeout=_TIMEOUT_SECONDS)
            load.cancels += 1
        except grpc.aio.AioRpcError:
            load.unanswered += 1
