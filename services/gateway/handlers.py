"""The RPCs of GenerationService: parse, call, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import grpc
from darkroom.gateway.v1 import gateway_pb2 as messages
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceServicer

from libs.common.catalog import CatalogHolder
from libs.common.database.records import GenerationRecord
from libs.common.database.records_edge import NewRequest
from libs.common.database.stores.generations import Change, GenerationStore
from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.rpc.context import current_request_id, metadata_of_context
from libs.common.rpc.messages import UrlOf
from libs.common.rpc.pages import in_turns, page, page_size, page_start
from libs.common.rpc.requests import known
from services.gateway.access import current_caller
from services.gateway.batches.handlers import Batches, BatchHandlers
from services.gateway.callbacks import Callbacks
from services.gateway.cancels import Cancels, no_generation
from services.gateway.client_calls import METADATA_KEY, client_call_of
from services.gateway.experiments.ratings import Ratings
from services.gateway.experiments.taking_part import TakingPart
from services.gateway.images.handlers import ImageHandlers
from services.gateway.images.preprocess import Images
from services.gateway.intake import Intake
from services.gateway.listing import wanted as wanted_generations
from services.gateway.messages import generation_message, model_message, rerun_message, ticket_message
from services.gateway.requests import validate
from services.gateway.reruns import Reruns
from services.gateway.resubmitting import resubmit_usd
from services.gateway.sameness import key_of_call
from services.gateway.submissions import Submissions
from services.gateway.watching import Watchers, stamp_of

Context = grpc.aio.ServicerContext[Any, Any]
_MEDIA_TYPES = ("image", "video")


class GenerationHandlers(BatchHandlers, ImageHandlers, GenerationServiceServicer):
    """Serves `darkroom.gateway.v1.GenerationService`."""

    def __init__(
        self,
        catalog: CatalogHolder,
        *,
        generations: GenerationStore,
        submissions: Submissions,
        intake: Intake,
        cancels: Cancels,
        watchers: Watchers[Change],
        batches: Batches,
        images: Images,
        callbacks: Callbacks,
        taking_part: TakingPart,
        ratings: Ratings,
        reruns: Reruns,
        url_of: UrlOf,
        callback_hosts: Sequence[str] = (),
    ) -> None:
        BatchHandlers.__init__(self, batches)
        ImageHandlers.__init__(self, images)
        self._catalog = catalog
        self._generations = generations
        self._submissions = submissions
        self._intake = intake
        self._cancels = cancels
        self._watchers = watchers
        self._callbacks = callbacks
        self._taking_part = taking_part
        self._ratings = ratings
        self._reruns = reruns
        self._url_of = url_of
        self._callback_hosts = callback_hosts

    async def CreateGeneration(
        self, request: messages.CreateGenerationRequest, context: Context
    ) -> messages.CreateGenerationResponse:
        """See the proto."""
        metadata = metadata_of_context(context)
        request.idempotency_key = key_of_call(request.idempotency_key, metadata)
        caller, request_id = current_caller(), current_request_id()

        def validated(message: messages.CreateGenerationRequest) -> NewRequest:
            return validate(
                message,
                self._catalog.current,
                caller=caller,
                request_id=request_id,
                callback_hosts=self._callback_hosts,
            )

        new = self._taking_part.request_of(request, caller, validated)
        if METADATA_KEY in metadata:
            new = replace(new, client_call=client_call_of(metadata, caller.key_id, request))
        accepted = await self._intake.accept(new)
        return ticket_message(accepted, resubmit_usd(new.generation, self._catalog.current))

    async def GetGeneration(
        self, request: messages.GetGenerationRequest, context: Context
    ) -> messages.GetGenerationResponse:
        """See the proto."""
        record = await self._own(request.id)
        return messages.GetGenerationResponse(generation=generation_message(record, self._url_of))

    async def RerunGeneration(
        self, request: messages.RerunGenerationRequest, context: Context
    ) -> messages.RerunGenerationResponse:
        """See the proto."""
        request.idempotency_key = key_of_call(request.idempotency_key, metadata_of_context(context))
        return rerun_message(await self._reruns.rerun(request, current_caller()))

    async def ListSubmissions(
        self, request: messages.ListSubmissionsRequest, context: Context
    ) -> messages.ListSubmissionsResponse:
        """See the proto."""
        return await self._submissions.list_page(request)

    async def ResolveSubmission(
        self, request: messages.ResolveSubmissionRequest, context: Context
    ) -> messages.ResolveSubmissionResponse:
        """See the proto."""
        return await self._submissions.resolve(request)

    async def ResolveSubmissions(
        self, request: messages.ResolveSubmissionsRequest, context: Context
    ) -> messages.ResolveSubmissionsResponse:
        """See the proto."""
        return await self._submissions.resolve_many(request)

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
        size, before = page_size(request), page_start(request)
        filters = wanted_generations(request, current_caller())
        records, next_token = page(await self._generations.list_page(size + 1, filters, before=before), size)
        generations = await in_turns(records, lambda record: generation_message(record, self._url_of))
        return messages.ListGenerationsResponse(generations=generations, next_page_token=next_token)

    async def CancelGeneration(
        self, request: messages.CancelGenerationRequest, context: Context
    ) -> messages.CancelGenerationResponse:
        """See the proto."""
        record = await self._cancels.cancel(known(request.id), owner=current_caller().sees)
        return messages.CancelGenerationResponse(generation=generation_message(record, self._url_of))

    async def WatchGeneration(
        self, request: messages.WatchGenerationRequest, context: Context
    ) -> AsyncIterator[messages.WatchGenerationResponse]:
        """See the proto."""
        await self._own(request.id)
        with self._watchers.watch(request.id, stamp=stamp_of(request.resume_token)) as watcher:
            async for change in watcher.changes():
                yield messages.WatchGenerationResponse(
                    generation=generation_message(change.record, self._url_of), resume_token=change.stamp
                )

    async def ListCallbacks(
        self, request: messages.ListCallbacksRequest, context: Context
    ) -> messages.ListCallbacksResponse:
        """See the proto."""
        return await self._callbacks.list_page(request, current_caller())

    async def ReplayCallback(
        self, request: messages.ReplayCallbackRequest, context: Context
    ) -> messages.ReplayCallbackResponse:
        """See the proto."""
        callback = await self._callbacks.replay(known(request.id), current_caller())
        return messages.ReplayCallbackResponse(callback=callback)

    async def GetCallbackSecret(
        self, request: messages.GetCallbackSecretRequest, context: Context
    ) -> messages.GetCallbackSecretResponse:
        """See the proto."""
        return messages.GetCallbackSecretResponse(secret=self._callbacks.secret_of(current_caller()))

    async def RateGeneration(
        self, request: messages.RateGenerationRequest, context: Context
    ) -> messages.RateGenerationResponse:
        """See the proto."""
        return await self._ratings.rate(request, current_caller())

    async def _own(self, generation_id: str) -> GenerationRecord:
        """The caller's generation of that id. NotFound also for one that is another owner's."""
        record = await self._generations.get(known(generation_id), owner=current_caller().sees)
        if record is None:
            raise no_generation(generation_id)
        return record
