"""From a ListGenerations message to what is looked for."""

from __future__ import annotations

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.stores.generations import GenerationFilter
from libs.common.errors import FieldViolation
from libs.common.rpc.requests import raise_for, text_faults, time_of
from services.gateway.access import Caller, permission_denied
from services.gateway.messages import STATUS_OF_STATE

_TEXT_LIMIT = 200
_TEXTS = ("model_identifier", "batch_id", "api_key_id", "experiment_id", "owner")


def wanted(request: gateway_pb2.ListGenerationsRequest, caller: Caller) -> GenerationFilter:
    """What the caller may and wants to see. InvalidRequest with every violation; PERMISSION_DENIED for other owners."""
    if request.owner and not caller.is_admin and request.owner != caller.owner:
        raise permission_denied()
    found = text_faults({name: getattr(request, name) for name in _TEXTS}, dict.fromkeys(_TEXTS, _TEXT_LIMIT))
    if any("\x00" in text for pair in request.labels.items() for text in pair):
        found.append(FieldViolation("labels", "text", "must not contain NUL characters"))
    states = [state for state, status in STATUS_OF_STATE.items() if status == request.status]
    if request.status and not states:
        found.append(FieldViolation("status", "one_of", "must be one of the statuses"))
    given = {field.name: value for field, value in request.ListFields()}
    after, before = (
        time_of(given[name], name, found) if name in given else None for name in ("created_after", "created_before")
    )
    raise_for(found)
    return GenerationFilter(
        owner=caller.sees if caller.sees is not None else request.owner or None,
        states=states,
        model_identifier=request.model_identifier or None,
        api_key_id=request.api_key_id or None,
        batch_id=request.batch_id or None,
        experiment_id=request.experiment_id or None,
        created_after=after,
        created_before=before,
        labels=dict(request.labels),
    )
