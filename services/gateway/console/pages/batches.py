"""Batches: how far each is, why parts of it failed, and what can be done about it."""

from __future__ import annotations

import asyncio

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records_batches import BatchRecord
from libs.common.database.states import BatchStatus
from libs.common.errors import NotFound
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
    batch = await _found(visit, visit.named("batch_id"))
    status = visit.asked("status")
    after = visit.asked("after", 10)
    place = int(after) if after.isascii() and after.isdigit() else -1
    generations, failures = await asyncio.gather(
        visit.parts.generations.list_of_batch(batch.id, _GENERATIONS + 1, after=place, states=STATUSES.get(status, ())),
        visit.parts.reads.failures(batch.id, limit=_FAILURES_LOOKED_AT),
    )
    last = generations[_GENERATIONS - 1].batch_index if len(generations) > _GENERATIONS else None
    values = {
        "batch": batch,
        "generations": generations[:_GENERATIONS],
        "failures": failures,
        "failures_are_partial": sum(one.number for one in failures) >= _FAILURES_LOOKED_AT,
        "status": status,
        "statuses": STATUSES,
        "ends": ends_of(visit.request, None if last is None else str(last), "after"),
        "can_resume": batch.status in {BatchStatus.PARTIAL_FAILED, BatchStatus.FAILED, BatchStatus.CANCELLED},
    }
    return Page("batch.html", values)


async def cancel(visit: Visit) -> Gone:
    """Ask for it to be cancelled."""
    batch_id = visit.named("batch_id")
    await visit.own(visit.parts.generation.CancelBatch, gateway_pb2.CancelBatchRequest(batch_id=batch_id))
    return Gone(f"/admin/batches/{batch_id}", "batch_cancelled")


async def resume(visit: Visit) -> Gone:
    """Run again what had not succeeded."""
    batch_id = visit.named("batch_id")
    await visit.own(visit.parts.generation.ResumeBatch, gateway_pb2.ResumeBatchRequest(batch_id=batch_id))
    return Gone(f"/admin/batches/{batch_id}", "batch_resumed")


async def _found(visit: Visit, batch_id: str) -> BatchRecord:
    batch = await visit.parts.batches.get(batch_id, owner=None)
    if batch is None:
        raise NotFound("batch_id", f"There is no batch {batch_id[:100]!r}.")
    return batch
