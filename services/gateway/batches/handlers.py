"""The RPCs of GenerationService that are about batches: parse, call, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2 as messages

from libs.common.catalog import CatalogHolder
from libs.common.database.records_batches import BatchRecord
from libs.common.database.stores.batches import BatchChange, BatchStore
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.resuming import LeftOut, ResumeStore
from libs.common.errors import FieldViolation, InvalidRequest, NotFound
from libs.common.ids import new_id
from libs.common.rpc.context import IDEMPOTENCY_KEY_HEADER, current_request_id, metadata_of_context
from libs.common.rpc.deadlines import after_commit
from libs.common.rpc.messages import UrlOf
from libs.common.rpc.pages import in_turns, page, page_size, page_start
from libs.common.rpc.requests import known
from libs.common.rpc.wakeups import Wakeups
from services.gateway.access import current_caller
from services.gateway.batches.intake import INLINE_LIMIT, UPLOAD_LIMIT, Asking, BatchIntake, each
from services.gateway.batches.messages import batch_message, estimate_of, priced_message, status_of
from services.gateway.batches.pages import index_after, next_token, tasks_of
from services.gateway.batches.templates import EXPANDED_LIMIT, template_of
from services.gateway.batches.upload_shares import UploadShares
from services.gateway.batches.uploads import Upload, UploadBounds
from services.gateway.messages import STATUS_OF_STATE, generation_message
from services.gateway.sameness import key_of_call
from services.gateway.second_payment import accepted_usd
from services.gateway.watching import Watchers, stamp_of

Context = grpc.aio.ServicerContext[Any, Any]
Asked = messages.CreateBatchRequest | messages.EstimateCostRequest
_EXAMPLES = 10


def no_batch(batch_id: str) -> NotFound:
    """There is none of that id."""
    return NotFound("batch_id", f"There is no batch {batch_id[:100]!r}.")


@dataclass(frozen=True, slots=True)
class Batches:
    """What the handlers of batches call."""

    catalog: CatalogHolder
    store: BatchStore
    resuming: ResumeStore
    generations: GenerationStore
    intake: BatchIntake
    shares: UploadShares
    upload_bounds: UploadBounds
    wakeups: Wakeups[str]
    watchers: Watchers[BatchChange]
    url_of: UrlOf

    async def own(self, batch_id: str) -> BatchRecord:
        """The caller's batch of that id. NotFound also for one that is another owner's."""
        record = await self.store.get(known(batch_id), owner=current_caller().sees)
        if record is None:
            raise no_batch(batch_id)
        return record


class BatchHandlers:
    """Serves what of `darkroom.gateway.v1.GenerationService` is about batches."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    async def CreateBatch(self, request: messages.CreateBatchRequest, context: Context) -> messages.CreateBatchResponse:
        """See the proto."""
        requests, limit = self._asked(request)
        key = key_of_call(request.idempotency_key, metadata_of_context(context))
        asking = _asking(request.options, key, context)
        accepted = await self._batches.intake.accept(asking, each(requests), limit=limit)
        opened, batch = accepted.opened, accepted.opened.batch
        with after_commit(batch_id=batch.id):
            states = await self._batches.generations.states_of_batch(batch.id, INLINE_LIMIT)
        return messages.CreateBatchResponse(
            batch_id=batch.id,
            total_tasks=batch.total_tasks,
            status=status_of(batch.status),
            tasks=[messages.BatchTask(id=key, status=STATUS_OF_STATE[state]) for key, state in states],
            estimate=estimate_of(batch),
            is_repeat=opened.is_repeat,
            resubmit_usd=accepted.resubmit_usd,
        )

    async def UploadBatch(
        self, request_iterator: AsyncIterator[messages.UploadBatchRequest], context: Context
    ) -> messages.UploadBatchResponse:
        """See the proto."""
        with self._batches.shares.turn_of(current_caller()):
            upload = await Upload.begun(request_iterator, self._batches.upload_bounds)
            asking = _asking(upload.options, upload.idempotency_key, context)
            accepted = await self._batches.intake.accept(asking, upload.requests(), limit=UPLOAD_LIMIT)
        opened = accepted.opened
        return messages.UploadBatchResponse(
            batch_id=opened.batch.id,
            total_tasks=opened.batch.total_tasks,
            status=status_of(opened.batch.status),
            estimate=estimate_of(opened.batch),
            is_repeat=opened.is_repeat,
            resubmit_usd=accepted.resubmit_usd,
        )

    async def ListBatches(self, request: messages.ListBatchesRequest, context: Context) -> messages.ListBatchesResponse:
        """See the proto."""
        size, before = page_size(request), page_start(request)
        found = await self._batches.store.list_page(size + 1, owner=current_caller().sees, before=before)
        records, following = page(found, size)
        return messages.ListBatchesResponse(
            batches=[batch_message(record) for record in records], next_page_token=following
        )

    async def GetBatch(self, request: messages.GetBatchRequest, context: Context) -> messages.GetBatchResponse:
        """See the proto."""
        size, states = tasks_of(request)
        after = index_after(request)
        batch = batch_message(await self._batches.own(request.batch_id), await self._left_out(request.batch_id))
        found = await self._batches.generations.list_of_batch(
            batch.batch_id, size + 1 if size else 0, after=after, states=states
        )
        batch.tasks.extend(
            await in_turns(found[:size], lambda record: generation_message(record, self._batches.url_of))
        )
        batch.next_page_token = next_token(found, size)
        return messages.GetBatchResponse(batch=batch)

    async def WatchBatch(
        self, request: messages.WatchBatchRequest, context: Context
    ) -> AsyncIterator[messages.WatchBatchResponse]:
        """See the proto."""
        await self._batches.own(request.batch_id)
        with self._batches.watchers.watch(request.batch_id, stamp=stamp_of(request.resume_token)) as watcher:
            async for change in watcher.changes():
                yield messages.WatchBatchResponse(batch=batch_message(change.record), resume_token=change.stamp)

    async def CancelBatch(self, request: messages.CancelBatchRequest, context: Context) -> messages.CancelBatchResponse:
        """See the proto."""
        await self._batches.store.request_cancel(known(request.batch_id), owner=current_caller().sees)
        with after_commit(batch_id=request.batch_id):
            record = await self._batches.own(request.batch_id)
        self._batches.wakeups.note(record.id)
        return messages.CancelBatchResponse(batch=batch_message(record))

    async def ResumeBatch(self, request: messages.ResumeBatchRequest, context: Context) -> messages.ResumeBatchResponse:
        """See the proto."""
        resumed = await self._batches.resuming.resume(
            known(request.batch_id),
            _codes(request.error_codes),
            owner=current_caller().sees,
            new_id=lambda: new_id("gen"),
            accepted_usd=accepted_usd(request),
        )
        if resumed is None:
            raise no_batch(request.batch_id)
        self._batches.wakeups.note(request.batch_id)
        with after_commit(batch_id=request.batch_id):
            batch = batch_message(await self._batches.own(request.batch_id), resumed.left_out)
        return messages.ResumeBatchResponse(batch=batch, resumed_tasks=resumed.tasks)

    async def EstimateCost(
        self, request: messages.EstimateCostRequest, context: Context
    ) -> messages.EstimateCostResponse:
        """See the proto."""
        requests, limit = self._asked(request)
        priced = await self._batches.intake.price(_asking(request.options, "", context), requests, limit=limit)
        answer = priced_message(priced)
        if request.HasField("template"):
            answer.examples.extend(islice(self._asked(request)[0], _EXAMPLES))
        return answer

    async def _left_out(self, batch_id: str) -> LeftOut:
        """Count what a resume would leave out."""
        return await self._batches.resuming.left_out(known(batch_id))

    def _asked(self, request: Asked) -> tuple[Iterator[messages.CreateGenerationRequest], int]:
        """The requests of a message, and how many it may have. InvalidRequest for a template that is none."""
        if not request.HasField("template"):
            if request.models or request.matrix.fields:
                raise InvalidRequest([FieldViolation("template", "required", "must be given with matrix and models")])
            return iter(request.requests), INLINE_LIMIT
        if request.requests:
            raise InvalidRequest([FieldViolation("requests", "once", "must not be set beside template")])
        template = template_of(request.template, request.matrix, request.models)
        return template.requests(self._batches.catalog.current), EXPANDED_LIMIT


def _asking(options: messages.BatchOptions, idempotency_key: str, context: Context) -> Asking:
    given = metadata_of_context(context).get(IDEMPOTENCY_KEY_HEADER) or ""
    return Asking(current_caller(), current_request_id(), options, idempotency_key or given)


def _codes(numbers: Sequence[int]) -> list[str]:
    codes = common_pb2.DESCRIPTOR.enum_types_by_name["ErrorCode"].values_by_number
    unknown = [index for index, number in enumerate(numbers) if number not in codes or not number]
    if unknown:
        raise InvalidRequest(
            [FieldViolation(f"error_codes[{index}]", "one_of", "must be one of the codes") for index in unknown]
        )
    return [codes[number].name.removeprefix("ERROR_CODE_") for number in numbers]
