"""Law 7: who does not know whether a create was committed says so, and nothing is made twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from threading import Event
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.client import Client, DarkroomError
from libs.common.crashpoints import CrashPoint
from libs.common.database.engine import Database
from libs.common.errors import ErrorCode
from libs.common.rpc.errors import from_rpc_error
from libs.common.settings import ServiceName
from tests.conftest import StartStack
from tests.support.closing import in_progress
from tests.support.commits import CommitProxy, Loss
from tests.support.http import call
from tests.support.rows import rows
from tests.support.running import SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

CREATES, AT_ONCE = 1_000, 8
INTAKE = "INSERT INTO generation_requests"
OUTCOMES = {"dispatcher": "submission_state text", "poller": "generation_state text"}
# What many clients are configured with. Source: https://github.com/grpc/proposal/blob/master/A6-client-retries.md.
USUAL_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "darkroom.gateway.v1.GenerationService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def _address(running: Running) -> str:
    return f"127.0.0.1:{running.gateway_port()}"


def _request(**fields: Any) -> gateway_pb2.CreateGenerationRequest:
    return gateway_pb2.CreateGenerationRequest(**{"model_identifier": "flux-pro", "prompt": "an apple", **fields})


async def test_usual_retries_without_a_key_make_nothing_twice(start_stack: StartStack, database: Database) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_RPC_TIMEOUT_SECONDS": "0.004"})
    places, answers = asyncio.Semaphore(AT_ONCE), Counter[str]()
    metadata = (("x-api-key", running.admin_key),)

    async def create(stub: GenerationServiceStub, number: int) -> None:
        async with places:
            try:
                await stub.CreateGeneration(_request(labels={"n": str(number)}), metadata=metadata, timeout=30)
                answers["OK"] += 1
            except grpc.aio.AioRpcError as error:
                answers[error.code().name] += 1

    options = (("grpc.service_config", json.dumps(USUAL_RETRIES)),)
    async with grpc.aio.insecure_channel(_address(running), options=options) as channel:
        await asyncio.gather(*(create(GenerationServiceStub(channel), number) for number in range(CREATES)))
    labels = Counter(await _labels_at_rest(database))
    print(f"\n{CREATES} creates: {dict(answers)}, {labels.total()} rows, {len(labels)} labels")
    assert max(labels.values()) == 1
    assert answers["OK"] <= labels.total() <= answers["OK"] + answers["DEADLINE_EXCEEDED"]
    assert answers.total() == answers["OK"] + answers["DEADLINE_EXCEEDED"] == CREATES
    assert answers["DEADLINE_EXCEEDED"], "the deadline was never reached"


async def _labels_at_rest(database: Database) -> list[str]:
    """The labels of all rows, once no commit is in progress."""
    seen = [-1]

    async def look() -> bool:
        (row,) = await rows(database, "SELECT count(*) AS count FROM generation_requests")
        (busy,) = await rows(
            database,
            "SELECT count(*) AS count FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' "
            "AND application_name = 'darkroom-gateway'",
        )
        seen.append(row["count"])
        return not busy["count"] and seen[-1] == seen[-2]

    await eventually(look, within=20, what="no commit is in progress")
    return [row["n"] for row in await rows(database, "SELECT labels->>'n' AS n FROM generation_requests")]


async def test_a_gateway_killed_between_commit_and_answer_makes_one_row(
    start_stack: StartStack, database: Database
) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_CRASH_AT": CrashPoint.GATEWAY_COMMITTED})
    async with (
        Client(_address(running), running.admin_key) as client,
        in_progress(client.submit("flux-pro", "an apple")) as submitting,
    ):
        await running.has_died("gateway")
        assert len(await rows(database, "SELECT id FROM generation_requests")) == 1
        await running.restart("gateway", {"DARKROOM_CRASH_AT": ""})
        generation_id = await asyncio.wait_for(submitting, 30)
    assert await rows(database, "SELECT id FROM generation_requests") == [{"id": generation_id}]


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[CommitProxy]:
    found = CommitProxy(database_url)
    yield found
    await found.close()


async def _through(proxy: CommitProxy, start_stack: StartStack, *services: Any) -> Running:
    url = await proxy.start()
    return await start_stack(services=services or ("gateway",), settings={"DARKROOM_DATABASE_URL": url})


@pytest.mark.parametrize(("loss", "written"), [("reply", 1), ("commit", 0)])
async def test_a_lost_commit_is_not_called_unavailable(
    start_stack: StartStack, database: Database, proxy: CommitProxy, loss: Loss, written: int
) -> None:
    running = await _through(proxy, start_stack)
    proxy.lose(loss, after=INTAKE)
    async with grpc.aio.insecure_channel(_address(running)) as channel:
        metadata = (("x-api-key", running.admin_key),)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GenerationServiceStub(channel).CreateGeneration(_request(), metadata=metadata, timeout=60)
    error = from_rpc_error(caught.value)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (error.code, error.is_retryable) == (ErrorCode.OUTCOME_UNKNOWN, False)
    assert len(await rows(database, "SELECT id FROM generation_requests")) == written


@pytest.mark.parametrize("loss", ["reply", "commit"])
async def test_our_client_repeats_a_lost_commit_under_one_key(
    start_stack: StartStack, database: Database, proxy: CommitProxy, loss: Loss
) -> None:
    running = await _through(proxy, start_stack)
    proxy.lose(loss, after=INTAKE, times=2)
    async with Client(_address(running), running.admin_key) as client:
        generation_id = await client.submit("flux-pro", "an apple")
        assert await rows(database, "SELECT id FROM generation_requests") == [{"id": generation_id}]
        proxy.lose(loss, after=INTAKE)
        again = await client.gateway.CreateGeneration(_request(), timeout=60)
        assert len(await rows(database, "SELECT id FROM generation_requests")) == 2, "gRPC has repeated it under a key"
        assert again.id != generation_id
        proxy.lose(loss, after="INSERT INTO generation_batches")
        batch_id = await client.batches.submit([_request(), _request()])
    assert await rows(database, "SELECT id FROM generation_batches") == [{"id": batch_id}]
    assert len(await rows(database, "SELECT id FROM generation_requests WHERE batch_id IS NOT NULL")) == 2
    assert proxy.lost >= 2


@pytest.mark.parametrize(("key", "is_retryable"), [("", False), ("once", True)])
async def test_a_lost_commit_over_http(
    start_stack: StartStack, proxy: CommitProxy, key: str, is_retryable: bool
) -> None:
    running = await _through(proxy, start_stack)
    headers = {"idempotency-key": key} if key else {}

    async def post(path: str, **body: Any) -> Any:
        proxy.lose("reply", after=INTAKE)
        return await call(
            running.gateway_url(), path, method="POST", key=running.admin_key, json_body=body, headers=headers
        )

    rest = await post("/api/external/generation", modelIdentifier="flux-pro", prompt="a pear")
    assert (rest.status, rest.json["code"], rest.json["isRetryable"]) == (504, "OUTCOME_UNKNOWN", is_retryable)
    headers = {"idempotency-key": f"{key} again"} if key else {}
    openai = await post("/v1/images/generations", model="flux-pro", prompt="a plum")
    # Clients of OpenAI's API repeat a 504 by themselves.
    assert (openai.status, openai.json["error"]["type"]) == (504 if key else 424, "server_error")
    assert openai.json["error"]["code"] == "outcome_unknown"
    assert openai.headers.get("x-should-retry") == (None if is_retryable else "false")


async def test_the_client_tells_who_calls_what_is_not_known(start_stack: StartStack, proxy: CommitProxy) -> None:
    running = await _through(proxy, start_stack)
    proxy.lose("commit", after=INTAKE, times=1_000)
    async with Client(_address(running), running.admin_key, call_seconds=2) as client:
        with pytest.raises(DarkroomError) as caught:
            await client.submit("flux-pro", "an apple", idempotency_key="mine")
    assert caught.value.code == "OUTCOME_UNKNOWN"


@pytest.mark.slow
@pytest.mark.parametrize(("service", "claimed"), [("dispatcher", "generation"), ("poller", "task")])
async def test_nothing_is_claimed_while_outcomes_wait_for_the_database(
    start_stack: StartStack, simulator: Simulator, proxy: CommitProxy, service: ServiceName, claimed: str
) -> None:
    running = await _through(proxy, start_stack, "gateway", "dispatcher", "poller")
    proxy.lose("commit", after=OUTCOMES[service], times=1_000_000)
    first = await running.create("flux-pro", simulated("first", task_seconds=0.1))

    async def waits() -> bool:
        return proxy.lost >= 3

    await eventually(waits, within=20, what="the outcome waits for the database")
    before = await running.metric(service, "darkroom_claimed_total", kind=claimed)
    second = await running.create("flux-pro", simulated("second", task_seconds=0.1))
    lost = proxy.lost

    async def goes_on() -> bool:
        return proxy.lost >= lost + 5

    await eventually(goes_on, within=30, what="the outcome was tried five times more")
    assert await running.metric(service, "darkroom_claimed_total", kind=claimed) == before
    proxy.lose("commit", after=OUTCOMES[service], times=0)
    for generation_id in (first, second):
        assert (await running.ended(generation_id, within=30)).status == SUCCESS
    bills = Counter(bill["prompt"] for bill in await simulator.bills())
    assert sorted(bills.values()) == [1, 1]


async def test_a_batch_whose_caller_is_cut_off_during_its_commit_is_whole_or_not_there(
    start_stack: StartStack, database: Database
) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_RPC_TIMEOUT_SECONDS": "1"})
    entered, released = Event(), Event()

    def hold(connection: sa.Connection) -> None:
        connection.execute(sa.text("LOCK TABLE generation_batches IN EXCLUSIVE MODE"))
        entered.set()
        released.wait(60)

    holding = asyncio.create_task(database.transaction("hold", hold))
    await asyncio.to_thread(entered.wait, 30)
    request = gateway_pb2.CreateBatchRequest(requests=[_request() for _ in range(5)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.gateway.CreateBatch(request, timeout=1.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    released.set()
    await holding

    async def batches() -> list[dict[str, Any]]:
        return await rows(database, "SELECT id, total_tasks FROM generation_batches")

    for batch in await eventually(batches, within=20, what="the batch is committed after all"):
        found = await rows(database, "SELECT id FROM generation_requests WHERE batch_id = :id", id=batch["id"])
        assert len(found) == batch["total_tasks"]
