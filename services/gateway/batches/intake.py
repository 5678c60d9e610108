"""Accepts batches: reads requests, stores them in parts, commits the batch at once, and wakes the dispatchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

import structlog
from darkroom.gateway.v1 import gateway_pb2

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.database.records_batches import BatchOptions, BatchRequest, Estimated, NewBatch, Opened
from libs.common.database.stores.batches import BatchStore
from libs.common.errors import FieldViolation, InvalidRequest
from libs.common.ids import new_id
from libs.common.rpc.requests import text_faults
from libs.common.rpc.wakeups import Wakeups
from services.gateway.access import Caller
from services.gateway.batches.estimates import Estimates
from services.gateway.batches.options import options_of
from services.gateway.batches.parts import Parts
from services.gateway.batches.reading import BatchReader, Read
from services.gateway.batches.tally import Knowledge, ModelEstimate, estimated, seconds_of
from services.gateway.batches.upload_shares import UploadShares

log = structlog.get_logger()
INLINE_LIMIT, UPLOAD_LIMIT = 1_000, 100_000
_PART_REQUESTS = 500
_PART_BYTES = 4 * 1024**2
# Much less than the time after which parts without a following one are removed (`BatchProgressStore.forget`).
_PART_SECONDS = 20.0
# So many requests, or so many bytes of them, are checked before others get a turn of the loop.
_TURN, _TURN_BYTES = 50, 256 * 1024
_KEY_LIMIT = 200
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asking:
    """Who hands a batch in, and how it is to be run."""

    caller: Caller
    request_id: str
    options: gateway_pb2.BatchOptions
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Priced:
    """What a batch would cost and take, as a whole and by model."""

    total_tasks: int
    whole: Estimated
    models: Sequence[ModelEstimate]
    resubmit_usd: float


@dataclass(frozen=True, slots=True)
class AcceptedBatch:
    """A batch that is committed. `resubmit_usd`: what repeated payments may add to its price, in US dollars."""

    opened: Opened
    resubmit_usd: float


class BatchIntake:
    """Takes batches in.

    Args:
        store: keeps them.
        catalog: what there is to be asked for.
        estimates: what is known of how long and how well.
        wakeups: tell the dispatchers.
        shares: bound what an owner stores at once.
        callback_hosts: hosts that callbacks may go to though their addresses are not public.
    """

    def __init__(
        self,
        store: BatchStore,
        catalog: CatalogHolder,
        estimates: Estimates,
        wakeups: Wakeups[str],
        shares: UploadShares,
        *,
        callback_hosts: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._estimates = estimates
        self._wakeups = wakeups
        self._shares = shares
        self._callback_hosts = callback_hosts
        self._writing: set[asyncio.Task[Any]] = set()

    async def accept(
        self, asking: Asking, requests: AsyncIterator[gateway_pb2.CreateGenerationRequest], *, limit: int
    ) -> AcceptedBatch:
        """Accept a batch of at most `limit` requests: all of it is committed when this answers, or nothing is.

        A caller that is cancelled while the batch is committed may find it committed.

        Raises:
            InvalidRequest: with what is wrong, by the index of the request.
            GenerationError: what `BatchStore.open` raises.
        """
        batch_id = new_id("batch")
        reader, options = self._reader(batch_id, asking)
        parts = Parts(self._store, self._shares, batch_id, asking.caller, asking.idempotency_key)
        opening = None
        try:
            async for part in self._parts(reader, requests, limit):
                places = min(options.max_concurrency, reader.count)
                await parts.put(part, places=places, reserved_usd=reader.tally.reserved_usd)
            # A graph of a hundred thousand takes a moment, in which others want a turn.
            read = await asyncio.to_thread(reader.finish)
            knowledge = await self._estimates.knowledge()
            priced = self._priced(reader, options, knowledge)
            _check_budget(options, priced)
            new = _new_batch(batch_id, asking, options, read, priced)
            opening = self._in_background(self._open(new, read, parts))
            return await asyncio.shield(opening)
        finally:
            # Also where the caller has gone: what is left otherwise is removed minutes later.
            if opening is None:
                await asyncio.shield(self._in_background(parts.drop()))

    async def close(self) -> None:
        """Wait for the transactions in progress."""
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def _open(self, new: NewBatch, read: Read, parts: Parts) -> AcceptedBatch:
        """Commit a batch whose parts are there.

        Its parts must not be dropped before the transaction has ended, which reads them and which nothing cancels.
        """
        opened = await parts.open(new, read.dependencies)
        self._tell(opened, read)
        return AcceptedBatch(opened, read.tally.resubmit_usd)

    def _in_background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run to its end also where the caller goes; its error is then nobody's."""
        task = asyncio.create_task(work)
        self._writing.add(task)

        def forget(done: asyncio.Task[T]) -> None:
            self._writing.discard(done)
            if not done.cancelled():
                done.exception()

        task.add_done_callback(forget)
        return task

    async def price(
        self, asking: Asking, requests: Iterable[gateway_pb2.CreateGenerationRequest], *, limit: int
    ) -> Priced:
        """What a batch would cost and take. Raises as `accept` does, but for what only doing it can tell."""
        reader, options = self._reader(new_id("batch"), asking)
        async for _ in self._parts(reader, each(requests), limit):
            pass
        reader.finish()
        return self._priced(reader, options, await self._estimates.knowledge())

    def _reader(self, batch_id: str, asking: Asking) -> tuple[BatchReader, BatchOptions]:
        options, faults = options_of(
            asking.options, default_callback_url=asking.caller.callback_url, callback_hosts=self._callback_hosts
        )
        faults += text_faults({"idempotency_key": asking.idempotency_key}, {"idempotency_key": _KEY_LIMIT})
        reader = BatchReader(
            batch_id,
            self._catalog.current,
            caller=asking.caller,
            request_id=asking.request_id,
            options=options,
            faults=faults,
            callback_hosts=self._callback_hosts,
        )
        reader.sign(asking.options.SerializeToString(deterministic=True))
        return reader, options

    async def _parts(
        self, reader: BatchReader, requests: AsyncIterator[gateway_pb2.CreateGenerationRequest], limit: int
    ) -> AsyncIterator[list[BatchRequest]]:
        """The requests in parts of a bounded size and age. None after the first fault: nothing will be kept."""
        part: list[BatchRequest] = []
        size_bytes = unshared_bytes = 0
        yielded_at = monotonic()
        async for message in requests:
            if reader.count >= limit:
                reader.fault(FieldViolation("requests", "length", f"must be at most {limit}"))
                return
            request = reader.read(message)
            if reader.is_hopeless:
                return
            if request is not None:
                part.append(request)
                size_bytes += message.ByteSize()
            is_old = bool(part) and monotonic() - yielded_at > _PART_SECONDS
            if is_old or len(part) >= _PART_REQUESTS or size_bytes >= _PART_BYTES:
                yield part
                part, size_bytes, yielded_at = [], 0, monotonic()
            unshared_bytes += message.ByteSize()
            if reader.count % _TURN == 0 or unshared_bytes >= _TURN_BYTES:
                unshared_bytes = 0
                await asyncio.sleep(0)
        if part:
            yield part

    def _priced(self, reader: BatchReader, options: BatchOptions, knowledge: Knowledge) -> Priced:
        catalog = self._catalog.current
        models = reader.tally.by_models(knowledge, catalog)
        seconds = {name: seconds_of(name, knowledge, catalog) for name in reader.tally.by_model}
        whole = estimated(
            models,
            knowledge,
            catalog,
            max_concurrency=options.max_concurrency,
            longest_chain_seconds=reader.longest_seconds(seconds),
        )
        return Priced(reader.count, whole, models, reader.tally.resubmit_usd)

    def _tell(self, opened: Opened, read: Read) -> None:
        if opened.is_repeat:
            metrics.REPEATS.labels("idempotency").inc()
        else:
            for model, asked in read.tally.by_model.items():
                metrics.GENERATIONS_CREATED.labels(model).inc(asked.tasks)
            metrics.BATCHES_CREATED.inc()
            self._wakeups.note(opened.batch.id)
        log.info(
            "batch accepted",
            batch_id=opened.batch.id,
            total_tasks=opened.batch.total_tasks,
            max_concurrency=opened.batch.max_concurrency,
            is_repeat=opened.is_repeat or None,
        )


async def each(
    requests: Iterable[gateway_pb2.CreateGenerationRequest],
) -> AsyncIterator[gateway_pb2.CreateGenerationRequest]:
    """Requests that are there already, one at a time."""
    for request in requests:
        yield request


def _check_budget(options: BatchOptions, priced: Priced) -> None:
    expected_usd = priced.whole.expected_usd
    if options.budget_usd is not None and expected_usd > options.budget_usd:
        fault = f"it is expected to cost {expected_usd:.4g} US dollars, and may cost {options.budget_usd:.4g}"
        raise InvalidRequest([FieldViolation("options.budget_usd", "budget", fault)])


def _new_batch(batch_id: str, asking: Asking, options: BatchOptions, read: Read, priced: Priced) -> NewBatch:
    return NewBatch(
        id=batch_id,
        owner=asking.caller.owner,
        api_key_id=asking.caller.key_id,
        request_id=asking.request_id,
        total_tasks=read.total_tasks,
        options=options,
        estimate=priced.whole,
        reserved_usd=read.reserved_usd,
        is_bounded=asking.caller.quota.is_bounded,
        idempotency_key=asking.idempotency_key or None,
        request_digest=read.digest if asking.idempotency_key else None,
    )
