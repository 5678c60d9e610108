"""Batches as clients ask for them, through a running gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.client.batches import picture_from
from tests.support.waiting import eventually

PROCESSING = gateway_pb2.BATCH_STATUS_PROCESSING
COMPLETED = gateway_pb2.BATCH_STATUS_COMPLETED
PARTIAL_FAILED = gateway_pb2.BATCH_STATUS_PARTIAL_FAILED
CANCELLED = gateway_pb2.BATCH_STATUS_CANCELLED


def asked(prompt: str, *, model: str = "flux-pro", **fields: Any) -> gateway_pb2.CreateGenerationRequest:
    """A request of a batch. `pictures`: the refs whose first outputs it starts from."""
    pictures = [picture_from(ref) for ref in fields.pop("pictures", ())]
    request = gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=prompt, images_from=pictures, **fields)
    if model == "flux-pro":
        # The smallest that all video models take.
        request.parameters.update({"size_or_ratio": "320x320"})
    return request


async def create(
    gateway: GenerationServiceStub, requests: Sequence[gateway_pb2.CreateGenerationRequest], **options: Any
) -> str:
    """Hand in a batch and answer its id."""
    request = gateway_pb2.CreateBatchRequest(requests=requests, options=gateway_pb2.BatchOptions(**options))
    return (await gateway.CreateBatch(request, timeout=60)).batch_id


async def look(gateway: GenerationServiceStub, batch_id: str, **fields: Any) -> gateway_pb2.Batch:
    """The batch with its generations."""
    request = gateway_pb2.GetBatchRequest(batch_id=batch_id, **fields)
    return (await gateway.GetBatch(request, timeout=60)).batch


async def ended(gateway: GenerationServiceStub, batch_id: str, *, within: float = 30) -> gateway_pb2.Batch:
    """The batch once it has ended."""

    async def has_ended() -> gateway_pb2.Batch | None:
        found = await look(gateway, batch_id)
        return found if found.status != PROCESSING else None

    found = await eventually(has_ended, within=within, what=f"{batch_id} has ended")
    assert found is not None
    return found
