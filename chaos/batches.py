"""Clients that create batches of every kind, cancel some and resume others, whatever is broken meanwhile."""

from __future__ import annotations

import asyncio
import random

import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from chaos.load import PAUSE_SECONDS, Load, until_answered
from libs.client.batches import picture_from

_TIMEOUT_SECONDS = 10.0
_PATIENCE_SECONDS = 90.0
_PAIRS, _BESIDE = 2, 4
TASKS = 2 * _PAIRS + _BESIDE
_CANCELLED_SHARE, _RESUMED_SHARE, _STRICT_SHARE, _STOPPING_SHARE = 0.2, 0.5, 0.2, 0.2


async def send_batches(channel: grpc.aio.Channel, load: Load, *, seed: int, count: int, seconds: float) -> None:
    """Create `count` batches at a steady pace, cancel some and resume others."""
    gateway = GenerationServiceStub(channel)
    chance = random.Random(f"{seed}/batches")
    async with asyncio.TaskGroup() as clients:
        for number in range(count):
            clients.create_task(_see_through(gateway, load, _batch(seed, number, chance), chance))
            await asyncio.sleep(seconds / count)


def _batch(seed: int, number: int, chance: random.Random) -> gateway_pb2.CreateBatchRequest:
    """Pictures, a video from each, and others beside them."""
    requests = []
    for place in range(_PAIRS):
        picture = gateway_pb2.CreateGenerationRequest(
            model_identifier="flux-pro", prompt=f"a picture #{seed}-b{number}-p{place}", ref=f"p{place}"
        )
        picture.parameters.update({"size_or_ratio": "320x320"})
        made = picture_from(f"p{place}")
        video = gateway_pb2.CreateGenerationRequest(
            model_identifier="kling-v1-6", prompt=f"a video #{seed}-b{number}-v{place}", images_from=[made]
        )
        requests += [picture, video]
    for place in range(_BESIDE):
        model = ("dall-e-3", "flux-schnell", "flux-dev-fal", "flux-dev")[place % 4]
        prompt = f"beside it #{seed}-b{number}-s{place}"
        requests.append(gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=prompt))
    is_parallel = chance.random() >= _STRICT_SHARE
    options = gateway_pb2.BatchOptions(parallel=is_parallel, stop_on_error=chance.random() < _STOPPING_SHARE)
    if is_parallel:
        options.max_concurrency = chance.randint(2, 5)
    return gateway_pb2.CreateBatchRequest(requests=requests, options=options, idempotency_key=f"{seed}-b{number}")


async def _see_through(
    gateway: GenerationServiceStub, load: Load, asked: gateway_pb2.CreateBatchRequest, chance: random.Random
) -> None:
    is_cancelled, is_resumed = chance.random() < _CANCELLED_SHARE, chance.random() < _RESUMED_SHARE
    batch_id = (await until_answered(load, lambda: gateway.CreateBatch(asked, timeout=_TIMEOUT_SECONDS))).batch_id
    load.batches.add(batch_id)
    if is_cancelled:
        await asyncio.sleep(2 * PAUSE_SECONDS)
        cancel = gateway_pb2.CancelBatchRequest(batch_id=batch_id)
        await until_answered(load, lambda: gateway.CancelBatch(cancel, timeout=_TIMEOUT_SECONDS))
        load.cancels += 1
    if is_resumed and await has_ended(gateway, load, batch_id):
        resume = gateway_pb2.ResumeBatchRequest(batch_id=batch_id)
        await until_answered(load, lambda: gateway.ResumeBatch(resume, timeout=_TIMEOUT_SECONDS))


async def has_ended(gateway: GenerationServiceStub, load: Load, batch_id: str) -> bool:
    """Wait for the batch's end. False where that takes too long."""
    look = gateway_pb2.GetBatchRequest(batch_id=batch_id, page_size=0)
    until = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while asyncio.get_running_loop().time() < until:
        answer = await until_answered(load, lambda: gateway.GetBatch(look, timeout=_TIMEOUT_SECONDS))
        if answer.batch.status != gateway_pb2.BATCH_STATUS_PROCESSING:
            return True
        await asyncio.sleep(PAUSE_SECONDS)
    return False
