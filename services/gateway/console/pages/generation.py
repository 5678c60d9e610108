"""One generation: its whole life on a line, and what can be done about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from darkroom.gateway.v1 import gateway_pb2
from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.records import GenerationRecord
from libs.common.database.records_dispatch import SubmissionRecord
from libs.common.database.states import TERMINAL
from libs.common.database.stores.billing import SubmissionFilter
from libs.common.database.stores.second_payment import CONSENT_FIELD, OpenPayment
from libs.common.errors import GenerationError, NotFound
from services.gateway.access import Caller
from services.gateway.console.pages.submissions import BILLINGS
from services.gateway.console.timeline import Known, timeline
from services.gateway.console.visit import Gone, Page, Visit, unless_away
from services.gateway.reruns import request_of

_SHOWN = 200
_RESOLUTIONS = {
    "ATTACHED": gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED,
    "RESUBMITTED": gateway_pb2.SUBMISSION_RESOLUTION_RESUBMITTED,
    "DISMISSED": gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED,
}


@dataclass(frozen=True, slots=True)
class Rerun:
    """What a rerun costs at most, in US dollars, the open payments of the original, and other models.

    `fault`: why the original's own model does not take the request any more; empty where it does.
    """

    price_usd: float
    payments: Sequence[OpenPayment]
    models: Sequence[tuple[str, str]]
    fault: str


async def show(visit: Visit) -> Page:
    """The page."""
    return await _page(visit, visit.named("id"))


async def _page(visit: Visit, generation_id: str, error: GenerationError | None = None, submission: str = "") -> Page:
    parts, record = visit.parts, await _found(visit, generation_id)
    behind, submissions, callbacks, logs = await asyncio.gather(
        parts.reads.behind(record.id),
        parts.submissions.list_page(_SHOWN, SubmissionFilter(generation_id=record.id)),
        parts.callbacks.list_page(_SHOWN, owner=None, generation_id=record.id, batch_id=None, state=None, before=None),
        unless_away(
            visit.peer(
                parts.monitor.ListErrorLogs,
                monitor_pb2.ListErrorLogsRequest(generation_id=record.id, page_size=_SHOWN),
            )
        ),
    )
    known = Known(record, behind, submissions, callbacks, list(logs.errors) if logs is not None else None)
    values = {
        "generation": record,
        "behind": behind,
        "open_submissions": [one for one in submissions if _is_open(one)],
        "resolved_money": [one for one in submissions if one.billing],
        "events": timeline(known),
        "logs_are_away": logs is None,
        "has_ended": record.state in TERMINAL,
        "rerun": await _rerun(visit, record, error),
        "once": visit.once,
        "error": error,
        "of_submission": submission,
        "written": visit.fields.written(),
    }
    return Page("generation.html", values, 200 if error is None else 400)


async def cancel(visit: Visit) -> Gone:
    """Ask for it to be cancelled."""
    generation_id = visit.named("id")
    await visit.own(visit.parts.generation.CancelGeneration, gateway_pb2.CancelGenerationRequest(id=generation_id))
    return Gone(f"/admin/generations/{generation_id}", "cancelled")


async def run_again(visit: Visit) -> Page | Gone:
    """Rerun it for its owner. Pressed twice on one page, it is one request."""
    fields, generation_id = visit.fields, visit.named("id")
    try:
        accepted_usd = fields.number(CONSENT_FIELD)
        fields.check()
        request = gateway_pb2.RerunGenerationRequest(
            id=generation_id,
            model_identifier=fields.text("model_identifier"),
            idempotency_key=visit.idempotency_key(f"{generation_id} {fields.text('model_identifier')}"),
            accepted_second_payment_usd=accepted_usd,
        )
        answer = await visit.own(visit.parts.generation.RerunGeneration, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, generation_id, error)
    return Gone(f"/admin/generations/{answer.id}", "run_again")


async def resolve(visit: Visit) -> Page | Gone:
    """Record what was found out about a submission: what becomes of it, whether it was billed, or both."""
    fields, submission_id = visit.fields, visit.named("submission_id")
    submission = await visit.parts.submissions.get(submission_id)
    if submission is None:
        raise NotFound("submission_id", f"There is no submission {submission_id[:100]!r}.")
    request = gateway_pb2.ResolveSubmissionRequest(
        submission_id=submission_id,
        resolution=_RESOLUTIONS.get(fields.text("resolution"), gateway_pb2.SUBMISSION_RESOLUTION_UNSPECIFIED),
        task_id=fields.text("task_id"),
        check_url=fields.text("check_url"),
        note=fields.text("note"),
        billing=BILLINGS.get(fields.text("billing"), gateway_pb2.SUBMISSION_BILLING_UNSPECIFIED),
        cost_usd=fields.number("cost_usd"),
        accepted_second_payment_usd=fields.number("accepted_second_payment_usd"),
    )
    try:
        fields.check()
        answer = await visit.own(visit.parts.generation.ResolveSubmission, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, submission.generation_id, error, submission_id)
    if answer.generation_id:
        return Gone(f"/admin/generations/{answer.generation_id}", "continued")
    return Gone(f"/admin/generations/{submission.generation_id}", "resolved_submission")


def _is_open(submission: SubmissionRecord) -> bool:
    """Whether an operator may still resolve it, or correct what was counted as spent."""
    is_unresolved = submission.state == "UNCERTAIN" and submission.resolution is None
    return is_unresolved or submission.at_risk_usd > 0 or submission.billing == "COUNTED"


async def _found(visit: Visit, generation_id: str) -> GenerationRecord:
    record = await visit.parts.generations.get(generation_id)
    if record is None:
        raise NotFound("id", f"There is no generation {generation_id[:100]!r}.")
    return record


async def _rerun(visit: Visit, record: GenerationRecord, error: GenerationError | None) -> Rerun | None:
    """What a rerun costs and risks; None while there is nothing to rerun."""
    stored = await visit.parts.generations.request_of(record.id)
    if stored is None or record.state not in TERMINAL or (record.batch_id is not None and stored.images_from):
        return None
    catalog = visit.parts.catalog.current
    models = [
        (name, name)
        for name, model in sorted(catalog.models.items())
        if model.media_type == record.media_type and name != record.model_identifier
    ]
    asked = gateway_pb2.RerunGenerationRequest(id=record.id)
    payer = Caller(record.api_key_id, "client", record.owner)
    price_usd, fault = 0.0, ""
    try:
        # Where callbacks go is checked when it is rerun.
        new = request_of(asked, replace(record, callback_url=None), stored, catalog, caller=payer)
        price_usd = new.generation.reserved_usd
    except GenerationError as found:
        fault = found.message
    asked_usd = error.details.get("price_usd") if error is not None else None
    return Rerun(
        price_usd=float(asked_usd) if isinstance(asked_usd, int | float) else price_usd,
        payments=await visit.parts.generations.open_payments(record.id),
        models=models,
        fault=fault,
    )
