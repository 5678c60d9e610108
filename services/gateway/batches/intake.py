"""Taking batches in: read, kept in parts, opened at once; the dispatcher is told, and does the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import structlog
from darkroom.gateway.v1 import gateway_pb2

from libs.common import metrics
from libs.common.catalog import CatalogHolder
from libs.common.database.records_batches import BatchOptions, BatchRequest, Estimated, NewBatch, Opened
from libs.common.database.stores.batches import BatchStore
from libs.common.errors import FieldViolation, GenerationError, InvalidRequest
from libs.common.ids import new_id
from libs.common.rpc.nudges import Nudges
from libs.common.rpc.requests import text_faults
from services.gateway.access import Caller
from services.gateway.batches.estimates import Estimates
from services.gateway.batches.options import options_of
from services.gateway.batches.reading import BatchReader, Read
from services.gateway.batches.tally import Knowledge, ModelEstimate, estimated, seconds_of

log = structlog.get_logger()
INLINE_LIMIT, UPLOAD_LIMIT = 1_000, 100_000
_PART_REQUESTS = 500
_PART_BYTES = 4 * 1024**2
# So many are checked before others get a turn of the loop.
_TURN = 50
_KEY_LIMIT = 200


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


class BatchIntake:
    """Takes batches in.

    Args:
        store: keeps them.
        catalog: what there is to be asked for.
        estimates: what is known of how long and how well.
        nudges: tell the dispatchers.
        callback_hosts: hosts that callbacks may go to though their addresses are not public.
    """

    def __init__(
        self,
        store: BatchStore,
        catalog: CatalogHolder,
        estimates: Estimates,
        nudges: Nudges,
        *,
        callback_hosts: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._estimates = estimates
        self._nudges = nudges
        self._callback_hosts = callback_hosts

    async def accept(
        self, asking: Asking, requests: AsyncIterator[gateway_pb2.CreateGenerationRequest], *, limit: int
    ) -> Opened:
        """Take in a batch of at most `limit` requests: all of it is committed when this answers, or nothing is.

        Raises InvalidRequest with what is wrong, by the index of the request, and what `BatchStore.open` raises.
        """
        batch_id = new_id("batch")
        reader, options = self._reader(batch_id, asking)
        parts, opened = 0, None
        try:
            async for part in self._parts(reader, requests, limit):
                await self._store.put(batch_id, parts, part)
                parts += 1
            # A graph of a hundred thousand takes a moment, in which others want a turn.
            read = await asyncio.to_thread(reader.finish)
            knowledge = await self._estimates.knowledge()
            priced = self._priced(reader, options, knowledge)
            _check_budget(options, priced)
            new = _new_batch(batch_id, asking, options, read, priced)
            opened = await self._store.open(new, read.dependencies, parts=parts)
        finally:
            # Also where the caller has gone: what is left otherwise is removed hours later.
            if parts and opened is None:
                await asyncio.shield(self._drop(batch_id))
        self._tell(opened, read)
        return opened

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
        """The requests in parts of a bounded size. None after the first fault: nothing will be kept."""
        part: list[BatchRequest] = []
        size_bytes = 0
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
            if len(part) >= _PART_REQUESTS or size_bytes >= _PART_BYTES:
                yield part
                part, size_bytes = [], 0
            if reader.count % _TURN == 0:
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
        return Priced(reader.count, whole, models)

    async def _drop(self, batch_id: str) -> None:
        try:
            await self._store.drop(batch_id)
        except GenerationError as error:
            log.warning("parts of a batch are left", batch_id=batch_id, error=error)

    def _tell(self, opened: Opened, read: Read) -> None:
        if opened.is_repeat:
            metrics.REPEATS.labels("idempotency").inc()
        else:
            for model, asked in read.tally.by_model.items():
                metrics.GENERATIONS_CREATED.labels(model).inc(asked.tasks)
            metrics.BATCHES_CREATED.inc()
            self._nudges.note(opened.batch.id)
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
