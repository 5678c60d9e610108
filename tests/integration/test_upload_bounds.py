"""What uploads of batches may store: nothing without quota, a share of each owner, and nothing once they broke off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.common.database.engine import Database
from libs.common.database.records_batches import BatchOptions, BatchRequest, Estimated, NewBatch
from libs.common.database.stores.batch_progress import BatchProgressStore
from libs.common.database.stores.batches import BatchStore, part_rows
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.errors import from_rpc_error
from tests.conftest import StartStack
from tests.support.batches import admit_all
from tests.support.rows import execute, new_generation, opened, rows
from tests.support.waiting import eventually, promptly

# More than one part.
MANY = 1_200


def _message(count: int, prompt: str = "x") -> gateway_pb2.UploadBatchRequest:
    asked = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt=prompt)
    return gateway_pb2.UploadBatchRequest(requests=[asked] * count)


class _Upload:
    """An upload over gRPC that goes on until it is ended."""

    def __init__(self, stub: GenerationServiceStub, first: gateway_pb2.UploadBatchRequest | None = None) -> None:
        self.call: Any = stub.UploadBatch(timeout=60)
        self._first = first

    async def begun(self, *others: gateway_pb2.UploadBatchRequest) -> _Upload:
        """Send the first messages."""
        for message in (self._first or _message(MANY), *others):
            try:
                await self.call.write(message)
            except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
                break
        return self

    async def refusal(self) -> GenerationError:
        """The error with which it was refused, though it has not been ended."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call
        return from_rpc_error(caught.value)


async def _parts(database: Database) -> int:
    (row,) = await rows(database, "SELECT count(*) AS parts FROM batch_uploads")
    return int(row["parts"])


async def _has_parts(database: Database, count: int) -> bool:
    return await _parts(database) == count


async def _written_bytes(database: Database) -> int:
    """What the table has taken on disk, deleted rows included."""
    (row,) = await rows(database, "SELECT pg_total_relation_size('batch_uploads') AS size")
    return int(row["size"])


@pytest.mark.parametrize(
    ("quota", "code"),
    [
        pytest.param({"monthly_budget_usd": 0}, ErrorCode.QUOTA_EXCEEDED, id="no budget"),
        pytest.param({"requests_per_minute": 1}, ErrorCode.RATE_LIMITED, id="no request left this minute"),
        pytest.param({"live_generations": 1}, ErrorCode.RATE_LIMITED, id="no place for another generation"),
    ],
)
async def test_nothing_is_stored_for_a_key_whose_quota_has_no_room(
    start_stack: StartStack, database: Database, quota: dict[str, Any], code: ErrorCode
) -> None:
    running = await start_stack(services=("gateway",))
    stub = await running.client("acme", quota=admin_pb2.ApiKeyQuota(**quota))
    if "monthly_budget_usd" not in quota:
        request = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="x")
        await stub.CreateGeneration(request, timeout=60)
    before = await _written_bytes(database)

    uploads = [await _Upload(stub).begun() for _ in range(4)]

    for refusal in await asyncio.gather(*(upload.refusal() for upload in uploads)):
        assert refusal.code is code
        assert refusal.details["quota"] == next(iter(quota))
    assert await _written_bytes(database) == before


async def test_a_repeat_is_answered_though_the_quota_is_used_up(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",))
    stub = await running.client("acme", quota=admin_pb2.ApiKeyQuota(requests_per_minute=1))

    async def messages() -> AsyncIterator[gateway_pb2.UploadBatchRequest]:
        first = _message(MANY)
        first.idempotency_key = "mine"
        yield first

    made = await stub.UploadBatch(messages(), timeout=30)
    before = await _written_bytes(database)
    again = await stub.UploadBatch(messages(), timeout=30)
    assert (again.batch_id, again.is_repeat) == (made.batch_id, True)
    assert await _written_bytes(database) == before


async def test_an_owner_and_a_key_have_a_share_of_uploads(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_UPLOADS_PER_OWNER": "4"})
    keys = [await running.client("acme") for _ in range(3)]
    other = await running.client("other")

    held = [await _Upload(stub).begun() for stub in (keys[0], keys[0], keys[1])]
    await eventually(lambda: _has_parts(database, 6), within=5, what="three uploads are in progress")

    of_key = await (await _Upload(keys[0]).begun()).refusal()
    assert (of_key.code, of_key.details["share_of"], of_key.details["limit"]) == (ErrorCode.RATE_LIMITED, "key", 2)
    held.append(await _Upload(keys[1]).begun())
    await eventually(lambda: _has_parts(database, 8), within=5, what="four uploads are in progress")
    of_owner = await (await _Upload(keys[2]).begun()).refusal()
    assert (of_owner.code, of_owner.details["share_of"], of_owner.details["limit"]) == (
        ErrorCode.RATE_LIMITED, "owner", 4,
    )  # fmt: skip
    held.append(await _Upload(other).begun())
    await eventually(lambda: _has_parts(database, 10), within=5, what="another owner's upload is in progress")

    for upload in held:
        upload.call.cancel()
    await promptly(lambda: _has_parts(database, 0), within=5, what="the parts are removed")
    await _Upload(keys[0]).begun()
    await eventually(lambda: _has_parts(database, 2), within=5, what="there is room again")


async def test_the_bytes_that_are_stored_for_an_owner_are_bounded(start_stack: StartStack, database: Database) -> None:
    settings = {"DARKROOM_UPLOAD_BYTES_PER_OWNER": str(4 * 1024**2)}
    running = await start_stack(services=("gateway",), settings=settings)
    stub = await running.client("acme")
    large = _message(250, "x" * 1_500)
    held = await _Upload(stub, large).begun(large)
    await eventually(lambda: _has_parts(database, 1), within=5, what="half of it is stored")
    refusal = await (await _Upload(stub, large).begun(large)).refusal()
    assert (refusal.code, refusal.details["share_of"]) == (ErrorCode.RATE_LIMITED, "key")
    assert await _parts(database) == 1

    held.call.cancel()
    await promptly(lambda: _has_parts(database, 0), within=5, what="the part is removed")
    await _Upload(stub, large).begun(large)
    await eventually(lambda: _has_parts(database, 1), within=5, what="there is room again")


@asynccontextmanager
async def _locked_uploads(url: str) -> AsyncIterator[None]:
    """Let nobody write parts until the block ends."""
    async with opened(url) as database:
        with database.engine.connect() as connection, connection.begin():
            connection.exec_driver_sql("LOCK TABLE batch_uploads IN SHARE MODE")
            yield


async def test_a_part_that_is_written_while_its_client_leaves_is_removed(
    start_stack: StartStack, database: Database, database_url: str
) -> None:
    running = await start_stack(services=("gateway",))
    stub = await running.client("acme")
    method = "/darkroom.gateway.v1.GenerationService/UploadBatch"

    async def writes_wait() -> bool:
        sql = "SELECT count(*) AS waiting FROM pg_locks WHERE NOT granted AND relation = 'batch_uploads'::regclass"
        return bool((await rows(database, sql))[0]["waiting"])

    async def has_left() -> bool:
        return not await running.metric("gateway", "darkroom_rpc_active", method=method)

    async def is_written() -> bool:
        counted = "darkroom_database_transaction_seconds_count"
        return bool(await running.metric("gateway", counted, name="put_batch_part"))

    async with _locked_uploads(database_url):
        upload = await _Upload(stub).begun()
        await eventually(writes_wait, within=5, what="the first part is being written")
        upload.call.cancel()
    await eventually(is_written, within=5, what="the first part is written")
    await promptly(lambda: _has_parts(database, 0), within=5, what="the part is removed")
    await eventually(has_left, within=5, what="the call has ended")
    assert await _parts(database) == 0


def _refusal_of_dribbling(address: str, key: str) -> GenerationError:
    """Send small messages without an end. The blocking client keeps the status of a call that ends while it writes."""

    def messages() -> Iterator[gateway_pb2.UploadBatchRequest]:
        while True:
            yield _message(500)
            time.sleep(0.05)

    # The stubs know asynchronous channels alone.
    connect: Any = grpc.insecure_channel
    with connect(address) as channel:
        upload: Any = GenerationServiceStub(channel).UploadBatch
        with pytest.raises(grpc.RpcError) as caught:
            upload(messages(), metadata=(("x-api-key", key),), timeout=60)
    return from_rpc_error(cast("grpc.aio.AioRpcError", caught.value))


async def test_an_upload_that_dribbles_is_ended(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_UPLOAD_TIMEOUT_SECONDS": "1"})
    key = (await running.new_key("acme")).key
    refusal = await asyncio.to_thread(_refusal_of_dribbling, f"127.0.0.1:{running.gateway_port()}", key)
    rules = [violation.rule for violation in refusal.violations]
    assert (refusal.code, rules) == (ErrorCode.INVALID_REQUEST, ["time"]), refusal
    await promptly(lambda: _has_parts(database, 0), within=5, what="the parts are removed")


async def test_an_upload_over_grpc_is_bounded_as_one_over_http(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_UPLOAD_LIMIT_BYTES": "100000"})
    stub = await running.client("acme")
    refusal = await (await _Upload(stub, _message(20, "x" * 4_000)).begun(_message(20, "y" * 4_000))).refusal()
    assert (refusal.code, refusal.violations[0].rule) == (ErrorCode.INVALID_REQUEST, "size")
    await promptly(lambda: _has_parts(database, 0), within=5, what="nothing is stored")


def _batch(batch_id: str, total_tasks: int) -> NewBatch:
    options, estimate = BatchOptions(), Estimated()
    return NewBatch(batch_id, "acme", "", "req_1", total_tasks, options, estimate, 0.0, is_bounded=False)


def _rows(batch_id: str, indexes: Sequence[int]) -> bytes:
    return part_rows([BatchRequest(new_generation(batch_id=batch_id, batch_index=index)) for index in indexes])


async def test_an_upload_is_swept_once_its_gateway_stores_no_more(database: Database) -> None:
    store = BatchStore(database, admit_all)
    await store.put("batch_left", 0, b"[]")
    await store.put("batch_live", 0, b"[]")
    await execute(database, "UPDATE batch_uploads SET created_at = now() - interval '6 minutes'")
    await store.put("batch_live", 1, b"[]")
    await BatchProgressStore(database).forget()
    found = await rows(database, "SELECT batch_id, part FROM batch_uploads ORDER BY part")
    assert [(row["batch_id"], row["part"]) for row in found] == [("batch_live", 0), ("batch_live", 1)]


async def test_a_batch_of_which_parts_were_lost_is_not_made(database: Database) -> None:
    store = BatchStore(database, admit_all)
    await store.put("batch_cut", 0, _rows("batch_cut", [0, 1]))
    await store.put("batch_cut", 1, _rows("batch_cut", [2]))
    await execute(database, "DELETE FROM batch_uploads WHERE part = 0")
    with pytest.raises(GenerationError, match="send it again") as caught:
        await store.open(_batch("batch_cut", 3), [], parts=2)
    assert (caught.value.code, caught.value.is_retryable) == (ErrorCode.SERVICE_UNAVAILABLE, True)
    assert await store.get("batch_cut", owner=None) is None


@pytest.mark.slow
async def test_the_space_of_removed_uploads_is_used_again(database: Database) -> None:
    """Autovacuum frees the space: the same uploads again, some minutes later, take no more."""
    store = BatchStore(database, admit_all)
    part = _rows("batch_space", range(2_000))

    async def fill_and_drop() -> int:
        for number in range(10):
            await store.put("batch_space", number, part)
        size_bytes = await _written_bytes(database)
        await store.drop("batch_space")
        return size_bytes

    async def is_vacuumed() -> bool:
        sql = """SELECT bool_and(s.autovacuum_count > 0) AS found FROM pg_stat_all_tables s
            JOIN pg_class c ON c.reltoastrelid = s.relid WHERE c.oid = 'batch_uploads'::regclass"""
        return bool((await rows(database, sql))[0]["found"])

    first = await fill_and_drop()
    await eventually(is_vacuumed, within=70, what="autovacuum has run")
    assert await fill_and_drop() <= first * 1.1
