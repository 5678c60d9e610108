"""From a ResolveSubmission message to what is to be done about an uncertain submit."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.gateway.v1 import gateway_pb2

from libs.common.adapters.reading import is_task_id
from libs.common.catalog import Catalog
from libs.common.database.records import NewTask, SubmissionRecord
from libs.common.database.stores.submissions import Resolution
from libs.common.errors import FieldViolation
from libs.common.rpc.requests import raise_for, text_faults

NOTE_LIMIT = 2_000
_RESOLUTIONS: dict[int, Resolution] = {
    gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED: "ATTACHED",
    gateway_pb2.SUBMISSION_RESOLUTION_RESUBMITTED: "RESUBMITTED",
    gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED: "DISMISSED",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an operator wants; `task` with ATTACHED."""

    resolution: Resolution
    task: NewTask | None


def resolution_of(
    request: gateway_pb2.ResolveSubmissionRequest, submission: SubmissionRecord, catalog: Catalog
) -> Wanted:
    """What is asked for. InvalidRequest with every violation; NotFound where the catalog has dropped the model."""
    resolution = _RESOLUTIONS.get(request.resolution)
    found = []
    if resolution is None:
        found.append(FieldViolation("resolution", "required", f"must be one of {', '.join(_RESOLUTIONS.values())}"))
    found += text_faults({"note": request.note}, {"note": NOTE_LIMIT})
    if resolution != "ATTACHED":
        raise_for(found)
        assert resolution is not None
        return Wanted(resolution, None)
    if not is_task_id(request.task_id):
        found.append(FieldViolation("task_id", "format", "must be the provider's id of the task, 1 to 200 characters"))
    model = catalog.model(submission.model_identifier or "")
    provider = catalog.provider_of(model)
    if request.check_url and not provider.owns(request.check_url):
        found.append(FieldViolation("check_url", "host", "must be an http(s) URL on a host of the provider"))
    raise_for(found)
    return Wanted("ATTACHED", model.task(request.task_id, provider.adapter, request.check_url or None))
