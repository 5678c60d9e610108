"""Batches through the whole stack: all or none, within their places, in order, stopped, cancelled and resumed."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.rpc.errors import from_rpc_error
from tests.support.asked import CANCELLED, COMPLETED, PARTIAL_FAILED, PROCESSING, asked, create, ended, look
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import FAILS, Simulator, simulated
from tests.support.waiting import eventually

_numbers = itertools.count()


def _prompt(**behaviour: Any) -> str:
    return simulated(f"of a batch, number {next(_numbers)}", **{"task_seconds": 0.1, **behaviour})


async def test_no_more_run_at_once_than_were_asked_for(running: Running, simulator: Simulator) -> None:
    requests = [asked(_prompt(task_seconds=0.3)) for _ in range(12)]
    batch_id = await create(running.gateway, requests, max_concurrency=4)
    watching = running.gateway.WatchBatch(gateway_pb2.WatchBatchRequest(batch_id=batch_id), timeout=30)
    seen = [change.batch async for change in watching]

    assert (await simulator.peaks())["all"] <= 4
    assert seen[-1].status == COMPLETED
    progress = [batch.progress for batch in seen]
    assert progress == sorted(progress)
    batch = await look(running.gateway, batch_id)
    assert (batch.completed_tasks, batch.failed_tasks, batch.progress) == (12, 0, 100)
    assert [task.prompt for task in batch.tasks] == [request.prompt for request in requests]
    assert [task.batch_index for task in batch.tasks] == list(range(12))
    assert batch.cost_usd == pytest.approx(sum(task.cost_usd for task in batch.tasks)) == pytest.approx(0.48)
    assert batch.estimate.high_usd == pytest.approx(0.48)


async def test_without_parallel_one_runs_after_the_other(running: Running) -> None:
    batch_id = await create(running.gateway, [asked(_prompt()) for _ in range(4)], parallel=False)
    batch = await ended(running.gateway, batch_id)
    times = [(task.submitted_at.ToNanoseconds(), task.ended_at.ToNanoseconds()) for task in batch.tasks]
    assert all(earlier[1] < later[0] for earlier, later in itertools.pairwise(times))


async def test_nothing_is_taken_in_where_anything_is_wrong(running: Running) -> None:
    before = len((await running.gateway.ListBatches(gateway_pb2.ListBatchesRequest(), timeout=60)).batches)
    wrong = [asked(_prompt()), asked("", priority=10), asked("x", model="none"), asked("x", idempotency_key="k")]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await create(running.gateway, wrong, max_concurrency=0)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in from_rpc_error(raised.value).violations] == [
        "options.max_concurrency",
        "requests[1].prompt",
        "requests[1].priority",
        "requests[2].model_identifier",
        "requests[3].idempotency_key",
    ]
    after = (await running.gateway.ListBatches(gateway_pb2.ListBatchesRequest(), timeout=60)).batches
    assert len(after) == before


async def test_what_belongs_to_a_batch_is_refused_alone(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="depends_on: must be set in a batch only"):
        await running.create("flux-pro", "alone", depends_on=["a"])


async def test_one_is_the_least_and_a_thousand_the_most_inline(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="must be at most 1000"):
        await create(running.gateway, [asked("x")] * 1_001)
    with pytest.raises(grpc.aio.AioRpcError, match="must be at least one"):
        await create(running.gateway, [])


async def test_a_repeat_under_the_same_name_is_the_same_batch(running: Running) -> None:
    client = await running.client("repeater")
    request = gateway_pb2.CreateBatchRequest(requests=[asked("same"), asked("same")], idempotency_key="once")
    answers = await asyncio.gather(*(client.CreateBatch(request, timeout=60) for _ in range(5)))
    assert len({answer.batch_id for answer in answers}) == 1
    assert sorted(answer.is_repeat for answer in answers) == [False, True, True, True, True]
    request.requests[0].prompt = "another"
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.CreateBatch(request, timeout=60)
    assert raised.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_pages_go_on_where_they_ended_and_can_be_of_one_status(running: Running) -> None:
    requests = [asked(_prompt(faults=FAILS if number % 2 else [])) for number in range(5)]
    batch_id = await create(running.gateway, requests, max_concurrency=5)
    batch = await ended(running.gateway, batch_id)
    assert batch.status == PARTIAL_FAILED
    pages, token = [], ""
    while True:
        page = await look(running.gateway, batch_id, page_size=2, page_token=token)
        pages.append([task.batch_index for task in page.tasks])
        token = page.next_page_token
        if not token:
            break
    assert pages == [[0, 1], [2, 3], [4]]
    failed = await look(running.gateway, batch_id, status=FAILED)
    assert [task.batch_index for task in failed.tasks] == [1, 3]
    assert (await look(running.gateway, batch_id, page_size=0)).tasks == []


async def test_a_failure_stops_what_has_not_begun_and_lets_the_rest_end(running: Running) -> None:
    requests = [asked(_prompt(faults=FAILS)), asked(_prompt(task_seconds=1.0)), *(asked(_prompt()) for _ in range(20))]
    batch_id = await create(running.gateway, requests, max_concurrency=2, stop_on_error=True)
    batch = await ended(running.gateway, batch_id)
    assert batch.stopped_at.seconds > 0
    assert (batch.status, batch.failed_tasks) == (PARTIAL_FAILED, 1)
    assert batch.tasks[1].status == SUCCESS
    assert batch.cancelled_tasks >= 15
    cancelled = next(task for task in batch.tasks if task.error.code == common_pb2.ERROR_CODE_TASK_CANCELLED)
    assert cancelled.error.message == "It was not begun: another of its batch failed, which stops it."


async def test_a_cancelled_batch_ends_everywhere_and_goes_on_when_it_is_resumed(
    running: Running, simulator: Simulator
) -> None:
    prompts = [_prompt(), *(_prompt(task_seconds=60) for _ in range(6))]
    requests = [asked(prompts[0]), *(asked(prompt, model="kling-v1-6") for prompt in prompts[1:])]
    batch_id = await create(running.gateway, requests, max_concurrency=3)

    async def at_work() -> bool:
        tasks = (await look(running.gateway, batch_id)).tasks
        return tasks[0].status == SUCCESS and sum(bool(task.provider_task_id) for task in tasks) >= 3

    await eventually(at_work, within=10, what="the first has ended and others are at work")
    asking = gateway_pb2.CancelBatchRequest(batch_id=batch_id)
    assert (await running.gateway.CancelBatch(asking, timeout=60)).batch.cancel_requested_at.seconds > 0
    batch = await ended(running.gateway, batch_id)
    assert (batch.status, batch.completed_tasks, batch.cancelled_tasks) == (CANCELLED, 1, 6)
    assert len(await simulator.bills()) <= 4

    cancelled = gateway_pb2.ResumeBatchRequest(batch_id=batch_id, error_codes=[common_pb2.ERROR_CODE_TASK_FAILED])
    resumed = (await running.gateway.ResumeBatch(cancelled, timeout=60)).batch
    assert (resumed.status, resumed.cancelled_tasks) == (CANCELLED, 6), "none of them failed"
    # Kling cannot cancel: what it works on may be billed, and is submitted again with consent alone.
    resumed = (await running.gateway.ResumeBatch(gateway_pb2.ResumeBatchRequest(batch_id=batch_id), timeout=60)).batch
    assert resumed.left_out_tasks == resumed.cancelled_tasks >= 2
    assert resumed.second_payment_usd > 0
    asked_again = gateway_pb2.ResumeBatchRequest(
        batch_id=batch_id, accepted_second_payment_usd=resumed.second_payment_usd
    )
    resumed = (await running.gateway.ResumeBatch(asked_again, timeout=60)).batch
    assert (resumed.status, resumed.completed_tasks, resumed.cancelled_tasks) == (PROCESSING, 1, 0)
    first = (await look(running.gateway, batch_id)).tasks[0]
    assert (first.id, first.continues_id) == (batch.tasks[0].id, "")
    second = (await look(running.gateway, batch_id)).tasks[1]
    assert second.continues_id == batch.tasks[1].id
    await running.gateway.CancelBatch(asking, timeout=60)
    assert (await ended(running.gateway, batch_id)).status == CANCELLED
    assert len(await simulator.bills(prompts[0])) == 1


async def test_a_failure_is_run_again_under_its_own_code(running: Running) -> None:
    batch_id = await create(running.gateway, [asked(_prompt()), asked(_prompt(faults=FAILS)), asked(_prompt())])
    assert (await ended(running.gateway, batch_id)).status == PARTIAL_FAILED
    again = gateway_pb2.ResumeBatchRequest(batch_id=batch_id, error_codes=[common_pb2.ERROR_CODE_TASK_FAILED])
    assert (await running.gateway.ResumeBatch(again, timeout=60)).batch.failed_tasks == 0
    batch = await ended(running.gateway, batch_id)
    assert (batch.completed_tasks, batch.failed_tasks) == (2, 1), "it fails again, as the simulator was told"
    continued = batch.tasks[1]
    assert (await running.get(continued.continues_id)).continued_by_id == continued.id


async def test_the_expected_cost_is_held_against_the_budget(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=r"options\.budget_usd: it is expected to cost 0\.0\d+ US"):
        await create(running.gateway, [asked("x"), asked("x")], budget_usd=0.001)


async def test_a_quota_lets_in_all_or_nothing_and_counts_what_may_run_at_once(running: Running) -> None:
    client = await running.client("bounded", quota={"live_generations": 2, "monthly_budget_usd": 0.5})
    waits = [asked(_prompt(task_seconds=60), model="kling-v1-6")]
    with pytest.raises(grpc.aio.AioRpcError, match=r"may spend 0\.5 US dollars a month"):
        await create(client, waits * 3, max_concurrency=2)
    with pytest.raises(grpc.aio.AioRpcError, match="this batch may have 3"):
        await create(client, [asked(_prompt()) for _ in range(5)], max_concurrency=3)
    batch_id = await create(client, [asked(_prompt()) for _ in range(8)], max_concurrency=2)
    with pytest.raises(grpc.aio.AioRpcError, match="may have 2 generations under way, and has 2"):
        await client.CreateGeneration(asked(_prompt()), timeout=60)
    assert (await ended(client, batch_id)).status == COMPLETED
    assert (await client.CreateGeneration(asked(_prompt()), timeout=60)).id


async def test_another_owner_has_no_such_batch(running: Running) -> None:
    client = await running.client("stranger")
    batch_id = await create(running.gateway, [asked(_prompt())])
    for call in (
        client.GetBatch(gateway_pb2.GetBatchRequest(batch_id=batch_id), timeout=60),
        client.CancelBatch(gateway_pb2.CancelBatchRequest(batch_id=batch_id), timeout=60),
        client.ResumeBatch(gateway_pb2.ResumeBatchRequest(batch_id=batch_id), timeout=60),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
