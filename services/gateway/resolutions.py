"""Reads filters of submissions and operators' decisions from requests."""

from __future__ import annotations

import math
from collections.abc import Iterable

from darkroom.gateway.v1 import gateway_pb2

from libs.common.adapters.reading import is_task_id
from libs.common.adapters.registry import adapters
from libs.common.catalog import Catalog
from libs.common.database.records_dispatch import NewTask, SubmissionRecord
from libs.common.database.stores.billing import Answer, Concern, SubmissionFilter
from libs.common.database.stores.submissions import Decision, Resolution
from libs.common.errors import FieldViolation
from libs.common.rpc.requests import ID_LIMIT, known, raise_for, text_faults, time_of
from services.gateway.second_payment import accepted_usd

NOTE_LIMIT = 2_000
COST_LIMIT_USD = 1_000_000.0
_TEXT_LIMIT = 200
_RESOLUTIONS: dict[int, Resolution] = {
    gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED: "ATTACHED",
    gateway_pb2.SUBMISSION_RESOLUTION_RESUBMITTED: "RESUBMITTED",
    gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED: "DISMISSED",
}
ANSWERS: dict[int, Answer] = {
    gateway_pb2.SUBMISSION_BILLING_BILLED: "BILLED",
    gateway_pb2.SUBMISSION_BILLING_NOT_BILLED: "NOT_BILLED",
}
_CONCERNS: dict[int, Concern] = {
    gateway_pb2.SUBMISSION_CONCERN_UNCERTAIN: "UNCERTAIN",
    gateway_pb2.SUBMISSION_CONCERN_AT_RISK: "AT_RISK",
    gateway_pb2.SUBMISSION_CONCERN_ANY: "ANY",
}


def wanted_submissions(request: gateway_pb2.ListSubmissionsRequest) -> SubmissionFilter:
    """Return the filter of a list. Raises InvalidRequest with every violation."""
    concern = _CONCERNS.get(request.concern)
    found: list[FieldViolation] = []
    if request.concern and concern is None:
        found.append(_one_of("concern", _CONCERNS.values()))
    generation_id = known(request.generation_id) or None
    found += text_faults({"generation_id": generation_id or ""}, {"generation_id": ID_LIMIT})
    return _filter(
        request,
        found,
        prefix="",
        generation_id=generation_id,
        concern=concern or (None if generation_id else "UNCERTAIN"),
    )


def selected_submissions(selection: gateway_pb2.SubmissionSelection) -> SubmissionFilter:
    """Return the filter of a bulk resolution. Raises InvalidRequest with every violation."""
    return _filter(selection, [], prefix="selection.", generation_id=None, concern=None)


def check_bulk(request: gateway_pb2.ResolveSubmissionsRequest, id_limit: int) -> Answer:
    """Return whether the submissions were billed. Raises InvalidRequest with every violation outside the selection."""
    found = text_faults({"note": request.note}, {"note": NOTE_LIMIT})
    answer = ANSWERS.get(request.billing)
    if answer is None:
        found.append(_one_of("billing", ANSWERS.values()))
    if bool(request.submission_ids) == request.HasField("selection"):
        found.append(FieldViolation("selection", "one_of", "exactly one of submission_ids and selection is required"))
    if len(request.submission_ids) > id_limit:
        found.append(FieldViolation("submission_ids", "length", f"must have at most {id_limit} ids"))
    raise_for(found)
    assert answer is not None
    return answer


def decision_of(
    request: gateway_pb2.ResolveSubmissionRequest, submission: SubmissionRecord, catalog: Catalog
) -> Decision:
    """Return an operator's decision.

    Raises InvalidRequest with every violation, and NotFound if the catalog no longer has the model.
    """
    resolution, billing = _RESOLUTIONS.get(request.resolution), ANSWERS.get(request.billing)
    found = text_faults({"note": request.note}, {"note": NOTE_LIMIT})
    if resolution is None and (request.resolution or not request.billing):
        found.append(_one_of("resolution", _RESOLUTIONS.values(), " (or billing alone is set)"))
    if request.billing and billing is None:
        found.append(_one_of("billing", ANSWERS.values()))
    if resolution == "ATTACHED" and request.billing:
        described = "must be unset with ATTACHED: the continuation has the cost"
        found.append(FieldViolation("billing", "attached", described))
    found += _cost_faults(request, billing)
    task = _task_of(request, submission, catalog, found) if resolution == "ATTACHED" else None
    accepted = accepted_usd(request)
    raise_for(found)
    cost_usd = request.cost_usd if request.HasField("cost_usd") else None
    return Decision(resolution, billing, cost_usd, task, request.note, accepted)


def _one_of(field: str, names: Iterable[str], then: str = "") -> FieldViolation:
    return FieldViolation(field, "required", f"must be one of {', '.join(names)}{then}")


def _cost_faults(request: gateway_pb2.ResolveSubmissionRequest, billing: Answer | None) -> list[FieldViolation]:
    if not request.HasField("cost_usd"):
        return []
    if billing != "BILLED":
        return [FieldViolation("cost_usd", "billed", "must be unset unless billing is BILLED")]
    if not math.isfinite(request.cost_usd) or not 0 <= request.cost_usd <= COST_LIMIT_USD:
        return [FieldViolation("cost_usd", "range", f"must be from 0 to {COST_LIMIT_USD:,.0f}")]
    return []


def _task_of(
    request: gateway_pb2.ResolveSubmissionRequest,
    submission: SubmissionRecord,
    catalog: Catalog,
    found: list[FieldViolation],
) -> NewTask:
    task_id = request.task_id or submission.provider_task_id or ""
    if not is_task_id(task_id):
        found.append(FieldViolation("task_id", "format", "must be the provider's id of the task, 1 to 200 characters"))
    model = catalog.model(submission.model_identifier or "")
    provider = catalog.provider_of(model)
    if not adapters()[provider.adapter].has_tasks():
        described = f"must not be ATTACHED: {provider.id} has no tasks, its replies hold the outputs"
        found.append(FieldViolation("resolution", "tasks", described))
    if request.check_url and not provider.owns(request.check_url):
        found.append(FieldViolation("check_url", "host", "must be an http(s) URL on a host of the provider"))
    return model.task(task_id, provider.adapter, request.check_url or None)


def _filter(
    given: gateway_pb2.ListSubmissionsRequest | gateway_pb2.SubmissionSelection,
    found: list[FieldViolation],
    *,
    prefix: str,
    generation_id: str | None,
    concern: Concern | None,
) -> SubmissionFilter:
    texts = {"provider_id": given.provider_id, "model_identifier": given.model_identifier}
    found += text_faults(texts, dict.fromkeys(texts, _TEXT_LIMIT), prefix=prefix)
    after = time_of(given.started_after, f"{prefix}started_after", found) if given.HasField("started_after") else None
    before = (
        time_of(given.started_before, f"{prefix}started_before", found) if given.HasField("started_before") else None
    )
    raise_for(found)
    return SubmissionFilter(
        generation_id=generation_id,
        concern=concern,
        provider_id=given.provider_id or None,
        model_identifier=given.model_identifier or None,
        started_after=after,
        started_before=before,
    )
