"""The RPCs of AdminService: API keys and their quotas. Parse, call, answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc
from darkroom.gateway.v1 import admin_pb2
from darkroom.gateway.v1.admin_pb2_grpc import AdminServiceServicer
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libs.common.api_keys import callback_secret, hash_of, new_key
from libs.common.database.records_edge import ApiKeyChange, ApiKeyRecord, NewApiKey, Quota, Role
from libs.common.database.stores.api_keys import ApiKeyStore
from libs.common.errors import FieldViolation, InvalidRequest, NotFound
from libs.common.ids import new_id
from libs.common.rpc.messages import timestamp
from libs.common.rpc.pages import page, page_size, page_start
from libs.common.rpc.requests import known, raise_for, time_of
from libs.common.validation.common import CallbackUrl, ShortText, violations
from services.gateway.access import current_caller
from services.gateway.authentication import Authentication
from services.gateway.sameness import callback_faults

Context = grpc.aio.ServicerContext[Any, Any]
_LIMIT = 1_000_000
_QUOTA_PREFIX = "quota."
_QUOTA_PATHS = tuple(f"{_QUOTA_PREFIX}{field.name}" for field in admin_pb2.ApiKeyQuota.DESCRIPTOR.fields)
_ROLES: dict[int, Role] = {
    admin_pb2.API_KEY_ROLE_UNSPECIFIED: "client",
    admin_pb2.API_KEY_ROLE_CLIENT: "client",
    admin_pb2.API_KEY_ROLE_ADMIN: "admin",
}
_ROLE_NUMBERS = {"client": admin_pb2.API_KEY_ROLE_CLIENT, "admin": admin_pb2.API_KEY_ROLE_ADMIN}


class _Owner(BaseModel):
    model_config = ConfigDict(strict=True)

    owner: ShortText = Field(min_length=1)


class _Callback(BaseModel):
    model_config = ConfigDict(strict=True)

    callback_url: CallbackUrl


class _Quota(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    requests_per_minute: int | None = Field(default=None, ge=1, le=_LIMIT)
    live_generations: int | None = Field(default=None, ge=1, le=_LIMIT)
    monthly_budget_usd: float | None = Field(default=None, ge=0, le=_LIMIT)


class AdminHandlers(AdminServiceServicer):
    """Serves `darkroom.gateway.v1.AdminService`.

    Args:
        keys: where keys are kept.
        authentication: is told of keys that changed.
        secret: what keys are hashed with.
        callback_hosts: hosts that callbacks may go to though their addresses are not public.
    """

    def __init__(
        self, keys: ApiKeyStore, authentication: Authentication, *, secret: str, callback_hosts: Sequence[str]
    ) -> None:
        self._keys = keys
        self._authentication = authentication
        self._secret = secret
        self._callback_hosts = callback_hosts

    async def CreateApiKey(
        self, request: admin_pb2.CreateApiKeyRequest, context: Context
    ) -> admin_pb2.CreateApiKeyResponse:
        """See the proto."""
        made = new_key()
        found: list[FieldViolation] = []
        row = NewApiKey(
            id=new_id("key"),
            prefix=made.prefix,
            key_hash=hash_of(made.key, self._secret),
            role=_ROLES.get(request.role, "client"),
            owner=request.owner,
            quota=_quota(request.quota, found),
            callback_url=self._callback_url(request.callback_url, found) or None,
            expires_at=_end(request.expires_at, found) if request.HasField("expires_at") else None,
        )
        found += _violations(_Owner, {"owner": request.owner})
        if request.role not in _ROLES:
            found.append(FieldViolation("role", "one_of", "must be one of the roles"))
        raise_for(found)
        record = await self._keys.create(row)
        return admin_pb2.CreateApiKeyResponse(
            key=made.key,
            api_key=key_message(record),
            callback_secret=callback_secret(row.id, self._secret),
        )

    async def ListApiKeys(
        self, request: admin_pb2.ListApiKeysRequest, context: Context
    ) -> admin_pb2.ListApiKeysResponse:
        """See the proto."""
        size, before = page_size(request), page_start(request)
        if request.owner:
            raise_for(_violations(_Owner, {"owner": request.owner}))
        found = await self._keys.list_page(
            size + 1, owner=request.owner or None, include_invalid=request.include_invalid, before=before
        )
        records, next_token = page(found, size)
        return admin_pb2.ListApiKeysResponse(
            api_keys=[key_message(record) for record in records], next_page_token=next_token
        )

    async def UpdateApiKey(
        self, request: admin_pb2.UpdateApiKeyRequest, context: Context
    ) -> admin_pb2.UpdateApiKeyResponse:
        """See the proto."""
        found: list[FieldViolation] = []
        changed = _changed(request, found)
        quota = _quota(request.quota, found, only=changed)
        callback_url = self._callback_url(request.callback_url, found) if "callback_url" in changed else ""
        sets_end = "expires_at" in changed and request.HasField("expires_at")
        change = ApiKeyChange(
            frozenset(path.removeprefix(_QUOTA_PREFIX) for path in changed),
            requests_per_minute=quota.requests_per_minute,
            live_generations=quota.live_generations,
            monthly_budget_usd=quota.monthly_budget_usd,
            callback_url=callback_url or None,
            expires_at=_end(request.expires_at, found) if sets_end else None,
        )
        raise_for(found)
        record = await self._keys.update(known(request.id), change)
        self._authentication.forget(request.id)
        return admin_pb2.UpdateApiKeyResponse(api_key=key_message(_there(record, request.id)))

    async def RevokeApiKey(
        self, request: admin_pb2.RevokeApiKeyRequest, context: Context
    ) -> admin_pb2.RevokeApiKeyResponse:
        """See the proto."""
        if request.id == current_caller().key_id:
            fault = "a key does not revoke itself: use another admin key, so that one is left"
            raise InvalidRequest([FieldViolation("id", "own", fault)])
        record = await self._keys.revoke(known(request.id))
        self._authentication.forget(request.id)
        return admin_pb2.RevokeApiKeyResponse(api_key=key_message(_there(record, request.id)))

    def _callback_url(self, url: str, found: list[FieldViolation]) -> str:
        if url:
            wrong = _violations(_Callback, {"callback_url": url})
            found += wrong or callback_faults(url, self._callback_hosts)
        return url


def key_message(record: ApiKeyRecord) -> admin_pb2.ApiKey:
    """A key as an operator sees it."""
    return admin_pb2.ApiKey(
        id=record.id,
        prefix=record.prefix,
        role=_ROLE_NUMBERS[record.role],
        owner=record.owner,
        quota=admin_pb2.ApiKeyQuota(
            requests_per_minute=record.requests_per_minute,
            live_generations=record.live_limit,
            monthly_budget_usd=record.monthly_budget_usd,
        ),
        usage=admin_pb2.ApiKeyUsage(
            live_generations=int(record.live_generations),
            spent_usd=record.spent_usd,
            reserved_usd=record.reserved_usd,
            at_risk_usd=record.at_risk_usd,
        ),
        callback_url=record.callback_url or "",
        created_at=timestamp(record.created_at),
        expires_at=timestamp(record.expires_at),
        revoked_at=timestamp(record.revoked_at),
        last_used_at=timestamp(record.last_used_at),
    )


def _there(record: ApiKeyRecord | None, key_id: str) -> ApiKeyRecord:
    if record is None:
        raise NotFound("id", f"There is no API key {key_id[:100]!r}.")
    return record


def _changed(request: admin_pb2.UpdateApiKeyRequest, found: list[FieldViolation]) -> set[str]:
    """Return the paths of the fields to change: those of the mask, or without one those that are set."""
    if not request.update_mask.paths:
        changed = {f"{_QUOTA_PREFIX}{field.name}" for field, _ in request.quota.ListFields()}
        return changed | {name for name in ("callback_url", "expires_at") if request.HasField(name)}
    changed = set(request.update_mask.paths)
    if "quota" in changed:
        changed = (changed - {"quota"}) | set(_QUOTA_PATHS)
    unknown = sorted(changed - {*_QUOTA_PATHS, "callback_url", "expires_at"})
    if unknown:
        known_paths = ", ".join(("quota", *_QUOTA_PATHS, "callback_url", "expires_at"))
        found.append(FieldViolation("update_mask", "one_of", f"{unknown[0][:100]!r} is none of {known_paths}"))
    return changed


def _quota(given: admin_pb2.ApiKeyQuota, found: list[FieldViolation], *, only: Collection[str] = _QUOTA_PATHS) -> Quota:
    values = {field.name: value for field, value in given.ListFields() if f"{_QUOTA_PREFIX}{field.name}" in only}
    try:
        quota = _Quota.model_validate(values)
    except ValidationError as error:
        found += violations(error, prefix="quota")
        return Quota()
    return Quota(quota.requests_per_minute, quota.live_generations, quota.monthly_budget_usd)


def _end(given: Timestamp, found: list[FieldViolation]) -> datetime | None:
    end = time_of(given, "expires_at", found)
    if end is not None and end <= datetime.now(UTC):
        found.append(FieldViolation("expires_at", "future", "must be in the future"))
    return end


def _violations(rules: type[BaseModel], values: dict[str, Any]) -> list[FieldViolation]:
    try:
        rules.model_validate(values)
    except ValidationError as error:
        return violations(error)
    return []
