"""One generation: its whole life on a line, and what can be done about it."""

from __future__ import annotations

import asyncio

from darkroom.gateway.v1 import gateway_pb2
from darkroom.monitor.v1 import monitor_pb2
from google.protobuf.json_format import ParseDict

from libs.common.database.records import GenerationRecord, Json
from libs.common.database.states import TERMINAL
from libs.common.errors import GenerationError, NotFound
from libs.common.rpc.structs import to_struct
from services.gateway.console.timeline import Known, timeline
from services.gateway.console.translations import gettext as _
from services.gateway.console.visit import Gone, Page, Visit, unless_away

_SHOWN = 200
_RESOLUTIONS = {
    "ATTACHED": gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED,
    "RESUBMITTED": gateway_pb2.SUBMISSION_RESOLUTION_RESUBMITTED,
    "DISMISSED": gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED,
}


async def show(visit: Visit) -> Page:
    """The page."""
    return await _page(visit, visit.named("id"))


async def _page(visit: Visit, generation_id: str, error: GenerationError | None = None, submission: str = "") -> Page:
    parts, record = visit.parts, await _found(visit, generation_id)
    behind, submissions, callbacks, logs = await asyncio.gather(
        parts.reads.behind(record.id),
        parts.submissions.list_page(_SHOWN, generation_id=record.id, after=""),
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
        "submissions": submissions,
        "events": timeline(known),
        "logs_are_away": logs is None,
        "has_ended": record.state in TERMINAL,
        "can_run_again": record.state in TERMINAL and not _needs_others(record, behind.request.images_from),
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


async def run_again(visit: Visit) -> Gone:
    """Hand in the same again, as whoever is signed in. Pressed twice on one page, it is one request."""
    record = await _found(visit, visit.named("id"))
    behind = await visit.parts.reads.behind(record.id)
    if _needs_others(record, behind.request.images_from):
        raise NotFound("id", _("It starts from pictures that others of its batch made: resume the batch instead."))
    request = gateway_pb2.CreateGenerationRequest(
        model_identifier=record.model_identifier,
        prompt=record.prompt,
        input_images=behind.request.input_images,
        number_of_outputs=record.number_of_outputs,
        parameters=to_struct(record.parameters),
        idempotency_key=visit.idempotency_key(record.id),
        user_id=record.user_id or "",
        priority=record.priority,
        labels=record.labels,
    )
    if behind.request.preprocess:
        ParseDict(behind.request.preprocess, request.preprocess, ignore_unknown_fields=True)
    answer = await visit.own(visit.parts.generation.CreateGeneration, request)
    return Gone(f"/admin/generations/{answer.id}", "run_again")


async def resolve(visit: Visit) -> Page | Gone:
    """Say what was found out about an uncertain submit."""
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
    )
    try:
        answer = await visit.own(visit.parts.generation.ResolveSubmission, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, submission.generation_id, error, submission_id)
    if answer.generation_id:
        return Gone(f"/admin/generations/{answer.generation_id}", "continued")
    return Gone(f"/admin/generations/{submission.generation_id}", "resolved_submission")


async def _found(visit: Visit, generation_id: str) -> GenerationRecord:
    record = await visit.parts.generations.get(generation_id)
    if record is None:
        raise NotFound("id", f"There is no generation {generation_id[:100]!r}.")
    return record


def _needs_others(record: GenerationRecord, images_from: list[Json]) -> bool:
    return record.batch_id is not None and bool(images_from)
