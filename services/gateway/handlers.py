"""The RPCs of GenerationService: parse, call, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from darkroom.gateway.v1 import gateway_pb2 as messages
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceServicer

from libs.common.catalog import CatalogHolder
from libs.common.database.stores.generations import GenerationStore
from libs.common.errors import FieldViolation, InvalidRequest, NotFound, Unimplemented
from libs.common.rpc.context import current_request_id
from libs.common.rpc.messages import UrlOf
from services.gateway.intake import Intake
from services.gateway.messages import generation_message, model_message
from services.gateway.requests import validate

Context = grpc.aio.ServicerContext[Any, Any]
_MEDIA_TYPES = ("image", "video")


class GenerationHandlers(GenerationServiceServicer):
    """Serves `darkroom.gateway.v1.GenerationService`."""

    def __init__(self, catalog: CatalogHolder, generations: GenerationStore, intake: Intake, url_of: UrlOf) -> None:
        self._catalog = catalog
        self._generations = generations
        self._intake = intake
        self._url_of = url_of

    async def CreateGeneration(
        self, request: messages.CreateGenerationRequest, context: Context
    ) -> messages.CreateGenerationResponse:
        """See the proto."""
        generation = validate(request, self._catalog.current, current_request_id())
        await self._intake.accept(generation)
        return messages.CreateGenerationResponse(id=generation.id, status=messages.GENERATION_STATUS_PENDING)

    async def GetGeneration(
        self, request: messages.GetGenerationRequest, context: Context
    ) -> messages.GetGenerationResponse:
        """See the proto."""
        record = await self._generations.get(request.id) if "\x00" not in request.id else None
        if record is None:
            raise NotFound("id", f"There is no generation {request.id[:100]!r}.")
        return messages.GetGenerationResponse(generation=generation_message(record, self._url_of))

    async def ListModels(self, request: messages.ListModelsRequest, context: Context) -> messages.ListModelsResponse:
        """See the proto."""
        wanted = request.media_type
        if wanted and wanted not in _MEDIA_TYPES:
            raise InvalidRequest([FieldViolation("media_type", "one_of", f"must be one of {', '.join(_MEDIA_TYPES)}")])
        catalog = self._catalog.current
        models = sorted(catalog.models.values(), key=lambda model: model.identifier)
        return messages.ListModelsResponse(
            models=[model_message(model, catalog) for model in models if wanted in ("", model.media_type)]
        )

    async def ListGenerations(
        self, request: messages.ListGenerationsRequest, context: Context
    ) -> messages.ListGenerationsResponse:
        """See the proto."""
        raise Unimplemented("Listing generations is not served by this version; read them one by one by id.")

    async def CancelGeneration(
        self, request: messages.CancelGenerationRequest, context: Context
    ) -> messages.CancelGenerationResponse:
        """See the proto."""
        raise Unimplemented("Cancelling generations is not served by this version.")

    async def WatchGeneration(
        self, request: messages.WatchGenerationRequest, context: Context
    ) -> AsyncIterator[messages.WatchGenerationResponse]:
        """See the proto."""
        raise Unimplemented("Watching generations is not served by this version; ask GetGeneration.")
        yield

    async def RateGeneration(
        self, request: messages.RateGenerationRequest, context: Context
    ) -> messages.RateGenerationResponse:
        """See the proto."""
        raise Unimplemented("Rating generations is not served by this version.")

    async def CreateBatch(self, request: messages.CreateBatchRequest, context: Context) -> messages.CreateBatchResponse:
        """See the proto."""
        raise Unimplemented("Batches are not served by this version; create generations one by one.")

    async def GetBatch(self, request: messages.GetBatchRequest, context: Context) -> messages.GetBatchResponse:
        """See the proto."""
        raise Unimplemented("Batches are not served by this version.")

    async def WatchBatch(
        self, request: messages.WatchBatchRequest, context: Context
    ) -> AsyncIterator[messages.WatchBatchResponse]:
        """See the proto."""
        raise Unimplemented("Batches are not served by this version.")
        yield

    async def CancelBatch(self, request: messages.CancelBatchRequest, context: Context) -> messages.CancelBatchResponse:
        """See the proto."""
        raise Unimplemented("Batches are not served by this version.")

    async def ResumeBatch(self, request: messages.ResumeBatchRequest, context: Context) -> messages.ResumeBatchResponse:
        """See the proto."""
        raise Unimplemented("Batches are not served by this version.")

    async def EstimateCost(
        self, request: messages.EstimateCostRequest, context: Context
    ) -> messages.EstimateCostResponse:
        """See the proto."""
        raise Unimplemented("Estimates are not served by this version; ListModels gives the prices.")
