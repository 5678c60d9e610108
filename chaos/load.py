"""Clients that send generations at a steady pace over all models, and cancel some, whatever is broken meanwhile."""

from __future__ import annotations

import asyncio
import base64
import io
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from google.protobuf.struct_pb2 import Struct
from PIL import Image

from libs.common.catalog import Model

Answer = TypeVar("Answer")
TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 0.5
LATE_SECONDS = 42.0
"""How long a late task takes: longer than its model's deadline."""
REQUEST_LABEL = "request"
"""The label that names a request, by which the audit recognises one that was made twice."""
# Vendors that cannot cancel: at its deadline a late task of another is cancelled and never succeeds.
LATE_PROVIDERS = {"bfl", "kling", "kling-relay", "pollo"}
_WORDS = ("a red apple", "a lighthouse in fog", "a paper boat", "a darkroom", "an owl", "a tram at night")
_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS,
}
# A connection that breaks may show as INTERNAL, too, but not so often in a row.
_INTERNAL_LIMIT = 10
_CANCELLED_SHARE = 0.02
_WITH_FALLBACK_SHARE = 0.1
_WITH_IMAGE_SHARE = 0.15
_LATE_SHARE = 0.06
# The rest of a late task's time is in the run.
_LATE_UNTIL = 0.4
_RESUBMIT_SHARE = 0.1


@dataclass(slots=True)
class Load:
    """What was sent.

    `tickets` and `batches` are the ids that were answered, `reused` the tickets that were answered with an earlier
    result. `unanswered` counts requests whose answer was lost, `repeats` creates that were answered with what an
    earlier try of the same request had made.
    """

    tickets: set[str] = field(default_factory=set)
    batches: set[str] = field(default_factory=set)
    reused: set[str] = field(default_factory=set)
    unanswered: int = 0
    repeats: int = 0
    cancels: int = 0
    deletes: int = 0
    late: int = 0
    with_images: int = 0
    old_resumes: int = 0


async def send(
    channel: grpc.aio.Channel, load: Load, *, seed: int, count: int, seconds: float, models: Mapping[str, Model]
) -> None:
    """Send until `count` tickets are in hand. A request whose answer is lost is sent again under the same name."""
    gateway = GenerationServiceStub(channel)
    chance = random.Random(f"{seed}/load")
    names = sorted(models)
    clients: set[asyncio.Task[None]] = set()
    for number in range(count):
        model = models[names[number % len(names)]]
        request = _request(seed, number, model, chance, may_be_late=number < count * _LATE_UNTIL)
        load.late += "[sim" in request.prompt
        load.with_images += bool(request.input_images)
        cancels = chance.random() < _CANCELLED_SHARE
        client = asyncio.create_task(_see_through(gateway, load, request, cancels=cancels))
        clients.add(client)
        client.add_done_callback(clients.discard)
        await asyncio.sleep(seconds / count)
    while clients:
        await asyncio.gather(*clients)


def named(request: gateway_pb2.CreateGenerationRequest, name: str) -> gateway_pb2.CreateGenerationRequest:
    """The request under a name of its own, as idempotency key and as label."""
    request.idempotency_key = name
    request.labels[REQUEST_LABEL] = name
    return request


def _request(
    seed: int, number: int, model: Model, chance: random.Random, *, may_be_late: bool
) -> gateway_pb2.CreateGenerationRequest:
    parameters = Struct()
    if model.identifier == "flux-pro":
        parameters.update({"size_or_ratio": "256x256"})
    request = gateway_pb2.CreateGenerationRequest(
        model_identifier=model.identifier,
        prompt=f"{_WORDS[number % len(_WORDS)]} #{seed}-{number}",
        parameters=parameters,
        priority=number % 10,
    )
    if model.identifier == "flux-dev" and chance.random() < _WITH_FALLBACK_SHARE:
        request.fallback_models.extend(["flux-dev-fal", "dall-e-3"])
    elif model.max_input_images and chance.random() < _WITH_IMAGE_SHARE:
        request.input_images.append(_image())
    if chance.random() < _RESUBMIT_SHARE:
        request.when_uncertain = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT
    if may_be_late and model.provider in LATE_PROVIDERS and chance.random() < _LATE_SHARE:
        request.prompt += f' [sim {{"task_seconds": {LATE_SECONDS}}}]'
    return named(request, f"{seed}-{number}")


@cache
def _image() -> str:
    """A picture that every vendor takes, as a data URL."""
    buffer = io.BytesIO()
    Image.new("RGB", (400, 320), (200, 60, 40)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


async def until_answered(load: Load, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Call until there is an answer.

    Raises grpc.aio.AioRpcError for a refusal, which a repeat would not change, and for a fault of ours that lasts.
    """
    internal = 0
    while True:
        try:
            answer: Answer = await call()
        except grpc.aio.AioRpcError as error:
            internal = internal + 1 if error.code() is grpc.StatusCode.INTERNAL else 0
            if error.code() in _REFUSALS or internal == _INTERNAL_LIMIT:
                raise
            load.unanswered += 1
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return answer


async def create(
    gateway: GenerationServiceStub, load: Load, request: gateway_pb2.CreateGenerationRequest
) -> gateway_pb2.CreateGenerationResponse:
    """Create a generation, again and again under its name until there is an answer, and keep its ticket."""
    answer: gateway_pb2.CreateGenerationResponse = await until_answered(
        load, lambda: gateway.CreateGeneration(request, timeout=TIMEOUT_SECONDS)
    )
    load.tickets.add(answer.id)
    load.repeats += answer.is_repeat
    return answer


async def _see_through(
    gateway: GenerationServiceStub, load: Load, request: gateway_pb2.CreateGenerationRequest, *, cancels: bool
) -> None:
    generation_id = (await create(gateway, load, request)).id
    if cancels:
        try:
            cancel = gateway_pb2.CancelGenerationRequest(id=generation_id)
            await gateway.CancelGeneration(cancel, timeout=TIMEOUT_SECONDS)
            load.cancels += 1
        except grpc.aio.AioRpcError as error:
            has_ended = error.code() is grpc.StatusCode.FAILED_PRECONDITION
            load.cancels += has_ended
            load.unanswered += not has_ended
