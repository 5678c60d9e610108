"""API keys: made, bounded, revoked, and what is used of their budgets."""

from __future__ import annotations

from darkroom.gateway.v1 import admin_pb2
from google.protobuf.field_mask_pb2 import FieldMask

from libs.common.errors import GenerationError
from services.gateway.console.fields import Fields
from services.gateway.console.lists import PAGE, ends_of
from services.gateway.console.visit import Gone, Page, Visit

_PATH = "/admin/keys"
_ROLES = {"client": admin_pb2.API_KEY_ROLE_CLIENT, "admin": admin_pb2.API_KEY_ROLE_ADMIN}


async def show(visit: Visit) -> Page:
    """The page."""
    return await _page(visit)


async def create(visit: Visit) -> Page:
    """Make a key, and show it this once."""
    fields = visit.fields
    try:
        request = admin_pb2.CreateApiKeyRequest(
            owner=fields.text("owner"),
            role=_ROLES.get(fields.text("role"), admin_pb2.API_KEY_ROLE_CLIENT),
            quota=_quota(fields),
            callback_url=fields.text("callback_url"),
        )
        if (expires_at := fields.time("expires_at")) is not None:
            request.expires_at.FromDatetime(expires_at)
        fields.check()
        made = await visit.own(visit.parts.admin.CreateApiKey, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, error)
    return await _page(visit, made=made)


async def change(visit: Visit) -> Page | Gone:
    """Change what a key may use."""
    fields = visit.fields
    try:
        # The form has all of them: what is left empty is cleared.
        request = admin_pb2.UpdateApiKeyRequest(
            id=visit.named("id"), quota=_quota(fields), update_mask=FieldMask(paths=["quota"])
        )
        fields.check()
        await visit.own(visit.parts.admin.UpdateApiKey, request)
    except GenerationError as error:
        if not error.violations:
            raise
        return await _page(visit, error)
    return Gone(_PATH, "quota_changed")


async def revoke(visit: Visit) -> Gone:
    """Make a key worthless for good."""
    await visit.own(visit.parts.admin.RevokeApiKey, admin_pb2.RevokeApiKeyRequest(id=visit.named("id")))
    return Gone(_PATH, "revoked")


async def _page(
    visit: Visit, error: GenerationError | None = None, made: admin_pb2.CreateApiKeyResponse | None = None
) -> Page:
    owner, shows_all = visit.asked("of"), bool(visit.asked("all"))
    found = await visit.parts.keys.list_page(
        PAGE + 1, owner=owner or None, include_invalid=shows_all, before=visit.before
    )
    before = found[PAGE - 1].id if len(found) > PAGE else None
    values = {
        "keys": found[:PAGE],
        "owner": owner,
        "shows_all": shows_all,
        "made": made,
        "error": error,
        "written": visit.fields.written(),
        "ends": ends_of(visit.request, before),
        "own_key_id": visit.caller.key_id,
    }
    return Page("keys.html", values, 200 if error is None else 400)


def _quota(fields: Fields) -> admin_pb2.ApiKeyQuota:
    return admin_pb2.ApiKeyQuota(
        requests_per_minute=fields.whole("requests_per_minute"),
        live_generations=fields.whole("live_generations"),
        monthly_budget_usd=fields.number("monthly_budget_usd"),
    )
