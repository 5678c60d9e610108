"""Money at risk over a whole stack: who sees it, what it counts against, and what becomes of it."""

from __future__ import annotations

import itertools
import re
from typing import Any

import grpc
import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.database.stores.console_reads import ConsoleReads
from libs.common.errors import ErrorCode
from libs.common.rpc.errors import from_rpc_error
from tests.conftest import PATH_SERVICES, StartStack
from tests.support.console import visitor
from tests.support.rows import opened
from tests.support.running import FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually

ATTACHED = gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED
DISMISSED = gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED
BILLED = gateway_pb2.SUBMISSION_BILLING_BILLED
NOT_BILLED = gateway_pb2.SUBMISSION_BILLING_NOT_BILLED
AT_RISK = gateway_pb2.SUBMISSION_CONCERN_AT_RISK
LOST_REPLY = [{"operation": "submit", "kind": "reset", "after": True, "times": 1}]
MODEL, PRICE_USD = "flux-schnell", 0.003
_METRICS = ("darkroom_all_spend_usd_total", "darkroom_billed_without_result_usd", "darkroom_at_risk_usd")
_numbers = itertools.count()


def _prompt(**fields: Any) -> str:
    return simulated(f"risk {next(_numbers)}", task_seconds=0, **fields)


async def _lost(running: Running, stub: GenerationServiceStub) -> tuple[gateway_pb2.Generation, str]:
    """A failed generation whose submission is uncertain, and the id of that."""
    request = gateway_pb2.CreateGenerationRequest(model_identifier=MODEL, prompt=_prompt(faults=LOST_REPLY))
    generation = await running.ended((await stub.CreateGeneration(request, timeout=60)).id)
    assert generation.status == FAILED
    return generation, str(generation.error.details["submission_id"])


async def _usage(running: Running, key_id: str) -> tuple[float, float, float]:
    """What is reserved, spent and at risk, in US dollars."""
    found = await running.admin.ListApiKeys(admin_pb2.ListApiKeysRequest())
    usage = next(key.usage for key in found.api_keys if key.id == key_id)
    return round(usage.reserved_usd, 6), round(usage.spent_usd, 6), round(usage.at_risk_usd, 6)


async def _listed(running: Running, **fields: Any) -> gateway_pb2.ListSubmissionsResponse:
    return await running.gateway.ListSubmissions(gateway_pb2.ListSubmissionsRequest(**fields), timeout=60)


async def _say(running: Running, submission_id: str, **fields: Any) -> gateway_pb2.Submission:
    request = gateway_pb2.ResolveSubmissionRequest(submission_id=submission_id, **fields)
    return (await running.gateway.ResolveSubmission(request, timeout=60)).submission


async def test_a_lost_reply_counts_against_the_budget_until_an_operator_says_that_it_was_not_billed(
    running: Running,
) -> None:
    made = await running.new_key("acme", quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=PRICE_USD * 1.5))
    stub = GenerationServiceStub(running.channel_of(made.key))
    generation, submission_id = await _lost(running, stub)
    assert await _usage(running, made.api_key.id) == (0, 0, PRICE_USD)
    assert (round(generation.at_risk_usd, 6), generation.cost_usd) == (PRICE_USD, 0)
    (submission,) = (await _listed(running, generation_id=generation.id)).submissions
    assert (round(submission.expected_cost_usd, 6), round(submission.at_risk_usd, 6)) == (PRICE_USD, PRICE_USD)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateGeneration(gateway_pb2.CreateGenerationRequest(model_identifier=MODEL, prompt="one more"))
    refused = from_rpc_error(caught.value)
    assert (refused.code, refused.details["at_risk_usd"]) == (ErrorCode.QUOTA_EXCEEDED, PRICE_USD)
    assert "0.003 at risk" in refused.message

    after = await _say(running, submission_id, billing=NOT_BILLED)
    assert (after.at_risk_usd, after.spent_usd, after.billing) == (0, 0, NOT_BILLED)
    assert after.resolution == gateway_pb2.SUBMISSION_RESOLUTION_UNSPECIFIED
    assert await _usage(running, made.api_key.id) == (0, 0, 0)
    again = (
        await stub.CreateGeneration(gateway_pb2.CreateGenerationRequest(model_identifier=MODEL, prompt=_prompt()))
    ).id
    assert (await running.ended(again)).status == SUCCESS
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD, 0)


async def test_what_was_billed_without_a_result_is_spent_and_can_be_corrected(running: Running) -> None:
    made = await running.new_key("acme")
    _, submission_id = await _lost(running, GenerationServiceStub(running.channel_of(made.key)))
    billed = await _say(running, submission_id, resolution=DISMISSED, billing=BILLED, cost_usd=0.01, note="an invoice")
    assert (billed.resolution, billed.billing, billed.spent_usd, billed.note) == (DISMISSED, BILLED, 0.01, "an invoice")
    assert await _usage(running, made.api_key.id) == (0, 0.01, 0)
    assert await _say(running, submission_id, resolution=DISMISSED, billing=BILLED, cost_usd=0.01) is not None
    assert await _usage(running, made.api_key.id) == (0, 0.01, 0)
    await _say(running, submission_id, billing=BILLED)
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD, 0)
    await _say(running, submission_id, billing=NOT_BILLED)
    assert await _usage(running, made.api_key.id) == (0, 0, 0)


async def test_money_of_a_task_that_is_found_moves_into_its_continuation(
    running: Running, simulator: Simulator
) -> None:
    made = await running.new_key("acme")
    generation, submission_id = await _lost(running, GenerationServiceStub(running.channel_of(made.key)))
    (bill,) = await simulator.bills(generation.prompt)
    continued = await running.resolve(submission_id, ATTACHED, task_id=bill["task_id"])
    assert (await running.ended(continued)).status == SUCCESS
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD, 0)
    (submission,) = (await _listed(running, generation_id=generation.id)).submissions
    assert (submission.billing, submission.at_risk_usd) == (gateway_pb2.SUBMISSION_BILLING_CONTINUED, 0)
    with pytest.raises(
        grpc.aio.AioRpcError,
        match="billing: must be unset: the generation that continues the submission's has the cost",
    ):
        await _say(running, submission_id, billing=BILLED)


async def test_a_repeat_by_policy_leaves_the_first_submission_at_risk_until_it_is_resolved(running: Running) -> None:
    made = await running.new_key("acme")
    policy = gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT
    stub = GenerationServiceStub(running.channel_of(made.key))
    request = gateway_pb2.CreateGenerationRequest(
        model_identifier=MODEL, prompt=_prompt(faults=LOST_REPLY), when_uncertain=policy
    )
    generation = await running.ended((await stub.CreateGeneration(request)).id)
    assert (generation.status, round(generation.at_risk_usd, 6)) == (SUCCESS, PRICE_USD)
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD, PRICE_USD)
    first = (await _listed(running, generation_id=generation.id)).submissions[0]
    assert first.id in {one.id for one in (await _listed(running, concern=AT_RISK, page_size=1_000)).submissions}
    await _say(running, first.id, billing=BILLED)
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD * 2, 0)
    assert (await running.get(generation.id)).at_risk_usd == 0


async def test_many_are_resolved_at_once_after_a_dry_run(running: Running) -> None:
    made = await running.new_key("acme")
    stub = GenerationServiceStub(running.channel_of(made.key))
    ids = sorted([(await _lost(running, stub))[1] for _ in range(3)])
    one = (await _listed(running, concern=AT_RISK, page_size=1_000)).submissions[-1]
    listed = await _listed(running, concern=AT_RISK, started_after=one.started_at)
    assert (listed.total_submissions, round(listed.total_at_risk_usd, 6)) == (1, PRICE_USD)

    named = gateway_pb2.ResolveSubmissionsRequest(submission_ids=[*ids[:2], "sub_nobody"], billing=BILLED, dry_run=True)
    dry = await running.gateway.ResolveSubmissions(named, timeout=60)
    assert (dry.resolved_submissions, dry.skipped_submissions) == (2, 1)
    assert (round(dry.at_risk_usd, 6), round(dry.spent_usd, 6)) == (PRICE_USD * 2, PRICE_USD * 2)
    assert await _usage(running, made.api_key.id) == (0, 0, round(PRICE_USD * 3, 6))
    named.dry_run = False
    assert await running.gateway.ResolveSubmissions(named, timeout=60) == dry
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD * 2, PRICE_USD)

    selection = gateway_pb2.SubmissionSelection(provider_id="replicate", model_identifier=MODEL)
    rest = gateway_pb2.ResolveSubmissionsRequest(selection=selection, billing=NOT_BILLED, dismiss=True, note="no bill")
    await running.gateway.ResolveSubmissions(rest, timeout=60)
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD * 2, 0)
    assert (
        await _listed(running, concern=gateway_pb2.SUBMISSION_CONCERN_ANY, provider_id="replicate")
    ).submissions == []


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"submission_ids": ["sub_1"]}, "billing"),
        ({"billing": BILLED}, "selection"),
        ({"billing": BILLED, "submission_ids": ["a"], "selection": gateway_pb2.SubmissionSelection()}, "selection"),
        ({"billing": BILLED, "submission_ids": ["a"] * 1_001}, "submission_ids"),
    ],
)
async def test_a_bulk_request_with_faults_is_refused(running: Running, fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=wrong) as caught:
        await running.gateway.ResolveSubmissions(gateway_pb2.ResolveSubmissionsRequest(**fields), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_clients_may_not_resolve_money(running: Running) -> None:
    stub = await running.client("acme")
    request = gateway_pb2.ResolveSubmissionsRequest(submission_ids=["sub_1"], billing=NOT_BILLED)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ResolveSubmissions(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def _figure(page: str, name: str) -> float:
    found = re.search(rf"<dt>{re.escape(name)}</dt><dd>(?:<a[^>]*>)?[$]([0-9.]+)<", page)
    assert found is not None, name
    return float(found[1])


async def test_spent_and_at_risk_are_the_same_sums_everywhere(start_stack: StartStack) -> None:
    running = await start_stack(services=(*PATH_SERVICES, "monitor"))
    made = [await running.new_key(owner) for owner in ("acme", "other")]
    stubs = [GenerationServiceStub(running.channel_of(key.key)) for key in made]
    lost = [(await _lost(running, stub))[1] for stub in (*stubs, *stubs)]
    for model, stub in zip(("flux-schnell", "gpt-image-1", "flux-pro"), (*stubs, stubs[0]), strict=True):
        request = gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=_prompt())
        assert (await running.ended((await stub.CreateGeneration(request)).id)).status == SUCCESS
    await _say(running, lost[0], billing=BILLED, cost_usd=0.000_001)
    await _say(running, lost[1], billing=NOT_BILLED)

    usages = [await _usage(running, key.api_key.id) for key in made]
    spent, at_risk = (round(sum(usage[place] for usage in usages), 6) for place in (1, 2))
    assert (spent > 0.05, at_risk) == (True, PRICE_USD * 2)
    stats = await MonitorServiceStub(running.channel("monitor")).GetStats(monitor_pb2.GetStatsRequest(), timeout=30)
    assert (round(stats.spent_usd, 6), round(stats.spend_usd, 6), round(stats.at_risk_usd, 6)) == (
        spent,
        spent,
        at_risk,
    )
    by_model = {(one.model_identifier, one.provider_id): one for one in stats.model_stats}
    assert round(by_model[MODEL, "replicate"].at_risk_usd, 6) == at_risk
    assert round(sum(one.spent_usd for one in stats.model_stats), 6) == spent

    async with opened(running.stack.environment["DARKROOM_DATABASE_URL"]) as database:
        _, today = await ConsoleReads(database).minutes(60)
    assert round(sum(money.spent_usd for money in today.values()), 6) == spent
    assert round(sum(money.at_risk_usd for money in today.values()), 6) == at_risk
    async with visitor(running.gateway_url()) as operator:
        await operator.sign_in(running.admin_key)
        page = (await operator.get("/admin")).text
    assert (_figure(page, "Spent today (UTC)"), _figure(page, "At risk today (UTC)")) == (round(spent, 4), at_risk)

    async def exported() -> bool:
        found = [await running.metric("monitor", name) for name in _METRICS]
        return (round(found[0] + found[1], 6), round(found[2], 6)) == (spent, at_risk)

    await eventually(exported, within=30, what="the metrics come to the same sums")


async def test_an_operator_resolves_many_in_the_console_after_a_confirmation(running: Running) -> None:
    made = await running.new_key("acme")
    stub = GenerationServiceStub(running.channel_of(made.key))
    ids = [(await _lost(running, stub))[1] for _ in range(2)]
    async with visitor(running.gateway_url()) as operator:
        token = await operator.sign_in(running.admin_key)
        listed = (await operator.get("/admin/submissions?concern=AT_RISK&provider=replicate")).text
        assert all(one in listed for one in ids)
        form = {"which": "chosen", "ids": ids[0], "billing": "BILLED", "note": "seen"}
        shown = await operator.post("/admin/submissions/preview", token, headers=None, **form)
        assert (shown.status, "1 submission will be resolved." in shown.text) == (200, True)
        assert await _usage(running, made.api_key.id) == (0, 0, PRICE_USD * 2)
        done = await operator.post("/admin/submissions/resolve", token, headers=None, **form)
        assert (done.status, done.location) == (303, "/admin/submissions?said=resolved_many")
        assert await _usage(running, made.api_key.id) == (0, PRICE_USD, PRICE_USD)
        none = await operator.post("/admin/submissions/preview", token, which="chosen", billing="BILLED")
        assert (none.status, "choose submissions, or all that match" in none.text) == (400, True)
        generation = (await _listed(running, concern=AT_RISK, page_size=1_000)).submissions[-1].generation_id
        assert "$0.003 at risk" in (await operator.get(f"/admin/generations/{generation}")).text
        answer = await operator.post(f"/admin/submissions/{ids[1]}/resolve", token, billing="NOT_BILLED")
        assert answer.status == 303
        assert "submission.resolve_many" in (await operator.get("/admin/audit")).text
    assert await _usage(running, made.api_key.id) == (0, PRICE_USD, 0)
