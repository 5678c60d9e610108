"""Batches: how far each is, why parts of it failed, and what can be done about it."""

from __future__ import annotations

import asyncio

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records_batches import BatchRecord
from libs.common.database.states import BatchStatus
from libs.common.database.stores.second_payment import CONSENT_FIELD
from libs.common.errors import GenerationError, NotFound
from services.gateway.console.lists import PAGE, ends_of
from services.gateway.console.pages.generations import STATUSES
from services.gateway.console.visit import Gone, Page, Visit

_GENERATIONS = 60
_FAILURES_LOOKED_AT = 2_000


async def show(visit: Visit) -> Page:
    """The list."""
    found = await visit.parts.batches.list_page(PAGE + 1, owner=None, before=visit.before)
    before = found[PAGE - 1].id if len(found) > PAGE else None
    return Page("batches.html", {"batches": found[:PAGE], "ends": ends_of(visit.request, before)})


async def show_one(visit: Visit) -> Page:
    """One batch with a page of its generations."""
    return await _page(visit)


async def _page(visit: Visit, error: GenerationError | None = None) -> Page:
    batch = await _found(visit, visit.named("batch_id"))
    status = visit.asked("status")
    after = visit.asked("after", 10)
    place = int(after) if after.isascii() and after.isdigit() else -1
    generations, failures = await asyncio.gather(
        visit.parts.generations.list_of_batch(batch.id, _GENERATIONS + 1, after=place, states=STATUSES.get(status, ())),
        visit.parts.reads.failures(batch.id, limit=_FAILURES_LOOKED_AT),
    )
    last = generations[_GENERATIONS - 1].batch_index if len(generations) > _GENERATIONS else None
    can_resume = batch.status in {BatchStatus.PARTIAL_FAILED, BatchStatus.FAILED, BatchStatus.CANCELLED}
    values = {
        "batch": batch,
        "left_out": await _left_out(visit, batch.id) if can_resume else None,
        "error": error,
        "generations": generations[:_GENERATIONS],
        "failures": failures,
        "failures_are_partial": sum(one.number for one in failures) >= _FAILURES_LOOKED_AT,
        "status": status,
        "statuses": STATUSES,
        "ends": ends_of(visit.request, None if last is None else str(last), "after"),
        "can_resume": can_resume,
    }
    return Page("batch.html", values, 200 if error is None else 400)


async def cancel(visit: Visit) -> Gone:
    """Ask for it to be cancelled."""
    batch_id = visit.named("batch_id")
    await visit.own(visit.parts.generation.CancelBatch, gateway_pb2.CancelBatchRequest(batch_id=batch_id))
    return Gone(f"/admin/batches/{batch_id}", "batch_cancelled")


async def resume(visit: Visit) -> Page | Gone:
    """Run again what had not succeeded; with consent also what may have been paid for."""
    batch_id, fields = visit.named("batch_id"), visit.fields
    try:
        request = gateway_pb2.ResumeBatchRequest(
            batch_id=batch_id, accepted_second_payment_usd=fields.number(CONSENT_FIELD)
        )
        fields.check()
        await visit.own(visit.parts.generation.ResumeBatch, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, error)
    return Gone(f"/admin/batches/{batch_id}", "batch_resumed")


async def _left_out(visit: Visit, batch_id: str) -> gateway_pb2.Batch:
    """The batch with what a resume leaves out, and what that costs."""
    request = gateway_pb2.GetBatchRequest(batch_id=batch_id, page_size=0)
    answer: gateway_pb2.GetBatchResponse = await visit.own(visit.parts.generation.GetBatch, request)
    return answer.batch


async def _found(visit: Visit, batch_id: str) -> BatchRecord:
    batch = await visit.parts.batches.get(batch_id, owner=None)
    if batch is None:
        raise NotFound("batch_id", f"There is no batch {batch_id[:100]!r}.")
    return batch
