"""What an operator does about a submit of which nobody knows what became."""

from __future__ import annotations

import itertools
from typing import Any

import grpc
import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated

ATTACHED = gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED
RESUBMITTED = gateway_pb2.SUBMISSION_RESOLUTION_RESUBMITTED
DISMISSED = gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED
BILLED = gateway_pb2.SUBMISSION_BILLING_BILLED
NOT_BILLED = gateway_pb2.SUBMISSION_BILLING_NOT_BILLED
_numbers = itertools.count()
LOST_REPLY = [{"operation": "submit", "kind": "reset", "after": True, "times": 1}]


async def _uncertain(running: Running, model: str = "flux-schnell") -> tuple[gateway_pb2.Generation, str, str]:
    """A failed generation, the id of its uncertain submission, and its prompt."""
    # Counts of faults belong to a prompt: each has one of its own.
    prompt = simulated(f"lost {next(_numbers)}", task_seconds=0, faults=LOST_REPLY)
    generation = await running.ended(await running.create(model, prompt))
    assert generation.error.code == common_pb2.ERROR_CODE_SUBMISSION_UNCERTAIN
    return generation, str(generation.error.details["submission_id"]), prompt


async def _listed(running: Running, **fields: Any) -> list[gateway_pb2.Submission]:
    request = gateway_pb2.ListSubmissionsRequest(page_size=1_000, **fields)
    return list((await running.gateway.ListSubmissions(request, timeout=60)).submissions)


async def test_an_uncertain_submit_waits_for_an_operator_with_what_is_known_of_it(running: Running) -> None:
    generation, submission_id, _ = await _uncertain(running)
    (found,) = [entry for entry in await _listed(running) if entry.id == submission_id]
    assert (found.generation_id, found.attempt, found.provider_id) == (generation.id, 1, "replicate")
    assert found.model_identifier == "flux-schnell"
    assert found.state == gateway_pb2.SUBMISSION_STATE_UNCERTAIN
    assert found.error.message
    assert found.HasField("started_at")
    assert found.HasField("ended_at")
    assert await _listed(running, generation_id=generation.id) == [found]


async def test_a_task_that_is_found_is_followed_to_its_end(running: Running, simulator: Simulator) -> None:
    generation, submission_id, prompt = await _uncertain(running)
    (bill,) = await simulator.bills(prompt)
    continued = await running.resolve(submission_id, ATTACHED, task_id=bill["task_id"], note="seen in the dashboard")
    found = await running.ended(continued)
    assert (found.status, found.continues_id) == (SUCCESS, generation.id)
    assert found.results[0].sha256
    assert len(await simulator.bills(prompt)) == 1
    # What has ended stays as it was, and says where it goes on.
    before = await running.get(generation.id)
    assert (before.status, before.continued_by_id, before.updated_at) == (FAILED, continued, generation.updated_at)
    assert submission_id not in {entry.id for entry in await _listed(running)}
    (kept,) = await _listed(running, generation_id=generation.id)
    assert (kept.resolution, kept.note) == (ATTACHED, "seen in the dashboard")


async def test_it_can_be_sent_again_knowingly(running: Running, simulator: Simulator) -> None:
    generation, submission_id, prompt = await _uncertain(running)
    continued = await running.resolve(submission_id, RESUBMITTED, accepted_second_payment_usd=1)
    found = await running.ended(continued)
    assert (found.status, found.continues_id, found.prompt) == (SUCCESS, generation.id, generation.prompt)
    assert len(await simulator.bills(prompt)) == 2


async def test_it_can_be_left_at_that(running: Running) -> None:
    _, submission_id, _ = await _uncertain(running)
    assert await running.resolve(submission_id, DISMISSED) == ""
    assert submission_id not in {entry.id for entry in await _listed(running)}


async def test_saying_it_twice_is_saying_it_once(running: Running, simulator: Simulator) -> None:
    _, submission_id, prompt = await _uncertain(running)
    first = await running.resolve(submission_id, RESUBMITTED, billing=NOT_BILLED)
    assert await running.resolve(submission_id, RESUBMITTED, billing=NOT_BILLED) == first
    await running.ended(first)
    assert len(await simulator.bills(prompt)) == 2


async def test_it_is_resolved_in_one_way(running: Running) -> None:
    _, submission_id, _ = await _uncertain(running)
    await running.resolve(submission_id, DISMISSED)
    with pytest.raises(grpc.aio.AioRpcError, match="it is resolved as"):
        await running.resolve(submission_id, RESUBMITTED)


async def test_a_task_that_another_generation_follows_is_not_attached(running: Running) -> None:
    other = await running.ended(await running.create("flux-schnell", simulated("other", task_seconds=0)))
    _, submission_id, _ = await _uncertain(running)
    with pytest.raises(grpc.aio.AioRpcError, match="no other generation polls"):
        await running.resolve(submission_id, ATTACHED, task_id=other.provider_task_id)
    assert submission_id in {entry.id for entry in await _listed(running)}


async def test_nothing_is_attached_where_the_provider_has_no_tasks(running: Running) -> None:
    _, submission_id, _ = await _uncertain(running, "gpt-image-1")
    with pytest.raises(grpc.aio.AioRpcError, match="has no tasks") as caught:
        await running.resolve(submission_id, ATTACHED, task_id="t")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert submission_id in {entry.id for entry in await _listed(running)}


async def test_a_certain_one_is_not_resolved(running: Running) -> None:
    generation = await running.ended(await running.create("flux-schnell", simulated("fine", task_seconds=0)))
    (submission,) = await _listed(running, generation_id=generation.id)
    assert submission.state == gateway_pb2.SUBMISSION_STATE_ACCEPTED
    assert (submission.http_status, submission.provider_task_id) == (201, generation.provider_task_id)
    assert submission.latency_ms > 0
    with pytest.raises(grpc.aio.AioRpcError, match="its state is"):
        await running.resolve(submission.id, RESUBMITTED)


@pytest.mark.parametrize(
    ("resolution", "fields", "wrong"),
    [
        (0, {}, "resolution"),
        (ATTACHED, {}, "task_id"),
        (ATTACHED, {"task_id": "../../secrets"}, "task_id"),
        (ATTACHED, {"task_id": "t", "check_url": "https://evil.example/t"}, "check_url"),
        (DISMISSED, {"note": "x" * 2_001}, "note"),
        (RESUBMITTED, {}, "accepted_second_payment_usd: must be at least"),
        (RESUBMITTED, {"accepted_second_payment_usd": 0.000_001}, "accepted_second_payment_usd"),
        (RESUBMITTED, {"billing": BILLED}, "accepted_second_payment_usd"),
        (ATTACHED, {"task_id": "t", "billing": BILLED}, "billing"),
        (DISMISSED, {"billing": gateway_pb2.SUBMISSION_BILLING_COUNTED}, "billing"),
        (DISMISSED, {"cost_usd": 1}, "cost_usd"),
        (DISMISSED, {"billing": BILLED, "cost_usd": -1}, "cost_usd"),
    ],
)
async def test_what_is_wrong_is_told_and_nothing_is_resolved(
    running: Running, resolution: gateway_pb2.SubmissionResolution.ValueType, fields: dict[str, Any], wrong: str
) -> None:
    _, submission_id, _ = await _uncertain(running)
    with pytest.raises(grpc.aio.AioRpcError, match=wrong) as caught:
        await running.resolve(submission_id, resolution, **fields)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert submission_id in {entry.id for entry in await _listed(running)}


async def test_what_is_sent_again_by_policy_waits_for_nobody(running: Running) -> None:
    prompt = simulated(f"lost {next(_numbers)}", task_seconds=0, faults=LOST_REPLY)
    policy = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT
    generation = await running.ended(await running.create("flux-schnell", prompt, when_uncertain=policy))
    first, second = await _listed(running, generation_id=generation.id)
    assert (first.state, first.resolution) == (gateway_pb2.SUBMISSION_STATE_UNCERTAIN, RESUBMITTED)
    assert second.state == gateway_pb2.SUBMISSION_STATE_ACCEPTED
    assert first.id not in {entry.id for entry in await _listed(running)}


async def test_an_unknown_one_is_not_found(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.resolve("sub_nobody", DISMISSED)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_pages_of_submissions(running: Running) -> None:
    for _ in range(3):
        await _uncertain(running)
    seen: list[str] = []
    token = ""
    while True:
        request = gateway_pb2.ListSubmissionsRequest(page_size=2, page_token=token)
        page = await running.gateway.ListSubmissions(request, timeout=60)
        seen += [entry.id for entry in page.submissions]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(set(seen))
    assert len(seen) >= 3
