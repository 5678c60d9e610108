"""Submissions that concern an operator: uncertain or with money at risk; filtered, added up, resolved many at once."""

from __future__ import annotations

from typing import Any

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.stores.billing import PARTLY_RESOLVED
from libs.common.errors import FieldViolation, GenerationError, InvalidRequest
from services.gateway.console.fields import Fields, Written
from services.gateway.console.lists import PAGE
from services.gateway.console.visit import Gone, Page, Visit

_PATH = "/admin/submissions"
_CONCERNS = {
    "ANY": gateway_pb2.SUBMISSION_CONCERN_ANY,
    "AT_RISK": gateway_pb2.SUBMISSION_CONCERN_AT_RISK,
    "UNCERTAIN": gateway_pb2.SUBMISSION_CONCERN_UNCERTAIN,
}
BILLINGS = {
    "BILLED": gateway_pb2.SUBMISSION_BILLING_BILLED,
    "NOT_BILLED": gateway_pb2.SUBMISSION_BILLING_NOT_BILLED,
}
_FILTERS = ("provider", "model", "from", "until")


async def show(visit: Visit) -> Page:
    """The page."""
    return await _page(visit, Written({name: visit.asked(name) for name in ("concern", *_FILTERS)}))


async def preview(visit: Visit) -> Page:
    """Show how many would be resolved and how much money that is, and ask for confirmation."""
    try:
        request = _request(visit.fields, dry_run=True)
        found = await visit.own(visit.parts.generation.ResolveSubmissions, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, visit.fields.written(), error)
    return await _page(visit, visit.fields.written(), found=found)


async def resolve(visit: Visit) -> Page | Gone:
    """Resolve the submissions; report where only some of them are resolved."""
    try:
        request = _request(visit.fields, dry_run=False)
        answer = await visit.own(visit.parts.generation.ResolveSubmissions, request)
    except GenerationError as error:
        if PARTLY_RESOLVED in error.details:
            return Gone(_PATH, "resolved_some", error.code.value)
        if not error.violations:
            raise
        return await _page(visit, visit.fields.written(), error)
    return Gone(_PATH, "resolved_some" if answer.has_more else "resolved_many")


async def _page(
    visit: Visit,
    given: Written,
    error: GenerationError | None = None,
    found: gateway_pb2.ResolveSubmissionsResponse | None = None,
) -> Page:
    fields = Fields.of(given)
    request = gateway_pb2.ListSubmissionsRequest(
        concern=_CONCERNS.get(given["concern"], gateway_pb2.SUBMISSION_CONCERN_ANY),
        page_size=PAGE,
        page_token=visit.asked("after", 100),
    )
    _set_filters(request, fields)
    listed = await visit.own(visit.parts.generation.ListSubmissions, request)
    values = {
        "listed": listed,
        "given": given,
        "concern": given["concern"] if given["concern"] in _CONCERNS else "ANY",
        "filters": _FILTERS,
        "chosen": visit.fields.texts("ids"),
        "providers": [(name, name) for name in sorted(visit.parts.catalog.current.providers)],
        "models": sorted(visit.parts.catalog.current.models),
        "error": error,
        "found": found,
        "kept": [(name, given[name]) for name in ("concern", *_FILTERS) if given[name]],
        "is_first": not visit.asked("after", 100),
    }
    return Page("submissions.html", values, 200 if error is None else 400)


def _request(fields: Fields, *, dry_run: bool) -> gateway_pb2.ResolveSubmissionsRequest:
    request = gateway_pb2.ResolveSubmissionsRequest(
        billing=BILLINGS.get(fields.text("billing"), gateway_pb2.SUBMISSION_BILLING_UNSPECIFIED),
        dismiss=fields.is_set("dismiss"),
        note=fields.text("note"),
        dry_run=dry_run,
    )
    if fields.text("which") == "all":
        request.selection.SetInParent()
        _set_filters(request.selection, fields)
    else:
        request.submission_ids.extend(fields.texts("ids"))
        if not request.submission_ids:
            raise InvalidRequest([FieldViolation("which", "required", "choose submissions, or all that match")])
    fields.check()
    return request


def _set_filters(message: Any, fields: Fields) -> None:
    """Copy the filters of the form into a ListSubmissionsRequest or a SubmissionSelection."""
    message.provider_id = fields.text("provider")
    message.model_identifier = fields.text("model")
    for name, field in (("from", message.started_after), ("until", message.started_before)):
        if (at := fields.time(name)) is not None:
            field.FromDatetime(at)
