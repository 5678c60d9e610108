"""The RPCs of GenerationService: parse, call, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from darkroom.gateway.v1 import gateway_pb2 as messages
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceServicer

from libs.common.catalog import CatalogHolder
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.submissions import SubmissionStore
from libs.common.errors import FieldViolation, InvalidRequest, NotFound, Unimplemented
from libs.common.ids import new_id
from libs.common.rpc.context import current_request_id
from libs.common.rpc.messages import UrlOf
from services.gateway.cancels import Cancels, no_generation
from services.gateway.intake import Intake
from services.gateway.messages import generation_message, model_message, submission_message
from services.gateway.requests import validate
from services.gateway.resolutions import page_size, resolution_of

Context = grpc.aio.ServicerContext[Any, Any]
_MEDIA_TYPES = ("image", "video")


def _known(key: str) -> str:
    """A key as Postgres takes it; one with a NUL in it is nobody's."""
    return key.replace("\x00", "\N{REPLACEMENT CHARACTER}")


class GenerationHandlers(GenerationServiceServicer):
    """Serves `darkroom.gateway.v1.GenerationService`."""

    def __init__(
        self,
        catalog: CatalogHolder,
        *,
        generations: GenerationStore,
        submissions: SubmissionStore,
        intake: Intake,
        cancels: Cancels,
        url_of: UrlOf,
    ) -> None:
        self._catalog = catalog
        self._generations = generations
        self._submissions = submissions
        self._intake = intake
        self._cancels = cancels
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
        record = await self._generations.get(_known(request.id))
        if record is None:
            raise no_generation(request.id)
        return messages.GetGenerationResponse(generation=generation_message(record, self._url_of))

    async def ListSubmissions(
        self, request: messages.ListSubmissionsRequest, context: Context
    ) -> messages.ListSubmissionsResponse:
        """See the proto."""
        size = page_size(request)
        found = await self._submissions.list_page(
            size + 1, generation_id=_known(request.generation_id) or None, after=_known(request.page_token)
        )
        return messages.ListSubmissionsResponse(
            submissions=[submission_message(record) for record in found[:size]],
            next_page_token=found[size - 1].id if len(found) > size else "",
        )

    async def ResolveSubmission(
        self, request: messages.ResolveSubmissionRequest, context: Context
    ) -> messages.ResolveSubmissionResponse:
        """See the proto."""
        record = await self._submissions.get(_known(request.submission_id))
        if record is None:
            raise NotFound("submission_id", f"There is no submission {request.submission_id[:100]!r}.")
        wanted = resolution_of(request, record, self._catalog.current)
        continued_by = await self._submissions.resolve(
            record.id, wanted.resolution, note=request.note, new_id=new_id("gen"), task=wanted.task
        )
        self._intake.nudge([continued_by] if continued_by else [])
        return messages.ResolveSubmissionResponse(generation_id=continued_by or "")

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
        record = await self._cancels.cancel(_known(request.id))
        return messages.CancelGenerationResponse(generation=generation_message(record, self._url_of))

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
