"""API keys: shown once, kept as a hash, valid until they are not, and slow for whoever guesses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, TypeVar, cast

import grpc
import pytest
import sqlalchemy as sa
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.admin_pb2_grpc import AdminServiceStub
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.database.engine import Database
from libs.common.database.records_edge import ApiKeyChange, NewApiKey, Quota
from libs.common.database.stores.api_keys import ApiKeyStore
from tests.conftest import StartStack
from tests.support.closing import in_progress
from tests.support.http import call
from tests.support.rows import rows
from tests.support.running import Running
from tests.support.waiting import eventually, promptly

LIST = gateway_pb2.ListModelsRequest()


async def _models(running: Running, key: str) -> grpc.StatusCode:
    try:
        await GenerationServiceStub(running.channel_of(key)).ListModels(LIST, timeout=60)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_key_is_nowhere_but_in_the_answer_that_made_it(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",))
    made = await running.new_key("acme")
    assert await _models(running, made.key) is grpc.StatusCode.OK
    assert made.key.startswith(made.api_key.prefix)
    secret = made.key[len(made.api_key.prefix) :]
    for row in await rows(database, "SELECT * FROM api_keys"):
        assert secret not in str({name: bytes(value) if isinstance(value, memoryview) else value
                                  for name, value in row.items()})  # fmt: skip
    assert secret not in running.log("gateway")
    listed = await running.admin.ListApiKeys(admin_pb2.ListApiKeysRequest(owner="acme"))
    assert [key.id for key in listed.api_keys] == [made.api_key.id]
    assert secret not in str(listed)


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_key_comes_in_either_header_over_either_port(running: Running, header: str) -> None:
    key = (await running.new_key("acme")).key
    value = f"Bearer {key}" if header == "authorization" else key
    reply = await call(running.gateway_url(), "/api/external/models", headers={header: value})
    assert reply.status == 200
    stub = GenerationServiceStub(running.channel_of(""))
    assert (await stub.ListModels(LIST, metadata=((header, value),), timeout=60)).models


async def test_a_revoked_key_is_worthless_at_once_here_and_soon_on_other_replicas(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_KEY_CACHE_SECONDS": "1"})
    replica = await running.stack_replica("gateway")
    made = await running.new_key("acme")
    there = GenerationServiceStub(running.channel_of(made.key, replica=replica))
    await there.ListModels(LIST, timeout=60, wait_for_ready=True)
    assert await _models(running, made.key) is grpc.StatusCode.OK

    await running.admin.RevokeApiKey(admin_pb2.RevokeApiKeyRequest(id=made.api_key.id))
    assert await _models(running, made.key) is grpc.StatusCode.UNAUTHENTICATED

    async def refused() -> bool:
        try:
            await there.ListModels(LIST, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
        return False

    await eventually(refused, within=5, what="the other replica refuses it too")
    listed = await running.admin.ListApiKeys(admin_pb2.ListApiKeysRequest(owner="acme"))
    assert not listed.api_keys
    everything = admin_pb2.ListApiKeysRequest(owner="acme", include_invalid=True)
    assert [key.HasField("revoked_at") for key in (await running.admin.ListApiKeys(everything)).api_keys] == [True]


async def test_a_key_ends_with_its_time(running: Running) -> None:
    end = Timestamp()
    end.FromDatetime(datetime.now(UTC) + timedelta(seconds=1))
    made = await running.new_key("acme", expires_at=end)
    assert await _models(running, made.key) is grpc.StatusCode.OK

    async def ended() -> bool:
        return await _models(running, made.key) is grpc.StatusCode.UNAUTHENTICATED

    await promptly(ended, within=4, what="the key has ended")


async def test_the_first_admin_key_comes_from_the_environment_and_another_takes_its_place(
    start_stack: StartStack,
) -> None:
    running = await start_stack(services=("gateway",))
    old, new = running.admin_key, "another-admin-key-for-this-test"
    assert await _models(running, old) is grpc.StatusCode.OK
    await asyncio.to_thread(running.stack.children["gateway"].stop, 20)
    await running.restart("gateway", {"DARKROOM_ADMIN_KEY": new})
    assert await _models(running, new) is grpc.StatusCode.OK
    assert await _models(running, old) is grpc.StatusCode.UNAUTHENTICATED
    found = await AdminServiceStub(running.channel_of(new)).ListApiKeys(admin_pb2.ListApiKeysRequest())
    assert [key.owner for key in found.api_keys] == ["admin"]


async def test_guessing_gets_slow_and_good_keys_do_not(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",))
    key = (await running.new_key("acme")).key

    async def guess(number: int) -> float:
        began = monotonic()
        reply = await call(running.gateway_url(), "/api/external/models", key=f"drk_guess-{number:030}")
        assert reply.status in {401, 429}
        return monotonic() - began

    quick = [await guess(number) for number in range(5)]
    slow = [await guess(number) for number in range(5, 10)]
    assert sum(slow) > 1 > sum(quick)

    async def guess_many() -> None:
        await asyncio.gather(*(guess(number) for number in range(10, 80)))

    async with in_progress(guess_many()) as guesses:
        reply = await call(running.gateway_url(), "/api/external/models", key=key)
        assert reply.status == 200
        assert not guesses.done(), "a good key waits for none of the wrong ones"
        await guesses
    assert await running.metric("gateway", "darkroom_gateway_authentications_total", outcome="refused") >= 80


async def test_when_a_key_was_last_used_is_kept(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",))
    made = await running.new_key("acme")
    assert await _models(running, made.key) is grpc.StatusCode.OK
    # Noted in the background, and at the latest when the gateway stops.
    await asyncio.to_thread(running.stack.children["gateway"].stop, 20)
    (row,) = await rows(database, "SELECT last_used_at FROM api_keys WHERE id = :id", id=made.api_key.id)
    assert row["last_used_at"] is not None


async def test_quotas_change_and_bad_ones_are_refused(running: Running) -> None:
    made = await running.new_key("acme", quota=admin_pb2.ApiKeyQuota(requests_per_minute=5))
    change = admin_pb2.UpdateApiKeyRequest(id=made.api_key.id, quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=3))
    changed = (await running.admin.UpdateApiKey(change)).api_key
    assert (changed.quota.requests_per_minute, changed.quota.monthly_budget_usd) == (5, 3)

    bad = admin_pb2.CreateApiKeyRequest(
        owner="", quota=admin_pb2.ApiKeyQuota(requests_per_minute=0), callback_url="ftp://x"
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.admin.CreateApiKey(bad)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for field in ("owner", "quota.requests_per_minute", "callback_url"):
        assert field in (caught.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.admin.UpdateApiKey(admin_pb2.UpdateApiKeyRequest(id="key_nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


FULL_QUOTA = {"requestsPerMinute": 7, "liveGenerations": 3, "monthlyBudgetUsd": 5.0}


async def _patch(running: Running, key_id: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await call(
        running.gateway_url(), f"/api/admin/keys/{key_id}", method="PATCH", key=running.admin_key, json_body=body
    )
    assert reply.status == 200, reply.body
    found: dict[str, Any] = json.loads(reply.body)
    return found


@pytest.mark.parametrize(
    ("body", "quota", "callback_url"),
    [
        pytest.param({"quota": {"requestsPerMinute": 5}}, FULL_QUOTA | {"requestsPerMinute": 5}, True, id="one"),
        pytest.param({"quota": {}}, FULL_QUOTA, True, id="none of them"),
        pytest.param({}, FULL_QUOTA, True, id="nothing"),
        pytest.param(
            {"quota": {"monthlyBudgetUsd": None}}, {"requestsPerMinute": 7, "liveGenerations": 3}, True, id="null"
        ),
        pytest.param({"quota": None}, {}, True, id="null for all of them"),
        pytest.param({"callbackUrl": None}, FULL_QUOTA, False, id="another field"),
        pytest.param(
            {"quota": {"liveGenerations": 9, "requestsPerMinute": 9}, "updateMask": "quota.liveGenerations"},
            FULL_QUOTA | {"liveGenerations": 9},
            True,
            id="a mask",
        ),
    ],
)
async def test_a_patch_leaves_what_it_does_not_name(
    running: Running, body: dict[str, Any], quota: dict[str, Any], callback_url: bool
) -> None:
    made = await running.new_key(
        "acme",
        quota=admin_pb2.ApiKeyQuota(requests_per_minute=7, live_generations=3, monthly_budget_usd=5),
        callback_url="https://example.com/hook",
    )
    changed = await _patch(running, made.api_key.id, body)
    assert (changed.get("quota") or {}, bool(changed.get("callbackUrl"))) == (quota, callback_url)


async def test_an_update_mask_clears_what_it_names_and_is_unset(running: Running) -> None:
    made = await running.new_key("acme", quota=admin_pb2.ApiKeyQuota(requests_per_minute=7, live_generations=3))
    key_id = made.api_key.id
    mask = FieldMask(paths=["quota.live_generations", "expires_at"])
    change = admin_pb2.UpdateApiKeyRequest(id=key_id, quota=admin_pb2.ApiKeyQuota(), update_mask=mask)
    change.expires_at.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    changed = (await running.admin.UpdateApiKey(change)).api_key
    assert (changed.quota.requests_per_minute, changed.quota.HasField("live_generations")) == (7, False)
    assert changed.HasField("expires_at")
    cleared = admin_pb2.UpdateApiKeyRequest(id=key_id, update_mask=FieldMask(paths=["expires_at"]))
    assert not (await running.admin.UpdateApiKey(cleared)).api_key.HasField("expires_at")
    unknown = admin_pb2.UpdateApiKeyRequest(id=key_id, update_mask=FieldMask(paths=["owner"]))
    with pytest.raises(grpc.aio.AioRpcError, match="update_mask: 'owner' is none of quota") as caught:
        await running.admin.UpdateApiKey(unknown)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


T = TypeVar("T")


class _Interrupted:
    """A database on which another caller updates the key after each transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def transaction(self, name: str, work: Callable[[sa.Connection], T]) -> T:
        answer = await self._database.transaction(name, work)
        rival = "UPDATE api_keys SET monthly_budget_usd = 99, revoked_at = NULL"
        await self._database.transaction("rival", lambda c: c.execute(sa.text(rival)))
        return answer


async def test_a_changed_key_is_read_in_the_transaction_that_changes_it(database: Database) -> None:
    store = ApiKeyStore(cast("Database", _Interrupted(database)))
    row = NewApiKey("key_1", "drk_x", b"", "client", "acme", Quota(monthly_budget_usd=1.0), None, None)
    assert (await store.create(row)).monthly_budget_usd == 1.0
    updated = await store.update("key_1", ApiKeyChange(frozenset({"monthly_budget_usd"}), monthly_budget_usd=5.0))
    assert updated is not None
    assert updated.monthly_budget_usd == 5.0
    revoked = await store.revoke("key_1")
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await store.update("key_2", ApiKeyChange(frozenset())) is None


async def test_concurrent_updates_and_a_revoke_of_one_key_are_all_kept(database: Database) -> None:
    store = ApiKeyStore(database)
    await store.create(NewApiKey("key_1", "drk_x", b"", "client", "acme", Quota(), None, None))
    await asyncio.gather(
        store.update("key_1", ApiKeyChange(frozenset({"monthly_budget_usd"}), monthly_budget_usd=5.0)),
        store.update("key_1", ApiKeyChange(frozenset({"requests_per_minute"}), requests_per_minute=7)),
        store.revoke("key_1"),
    )
    key = await store.get("key_1")
    assert key is not None
    assert (key.monthly_budget_usd, key.requests_per_minute, key.is_valid) == (5.0, 7, False)
