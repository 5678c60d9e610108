"""What a running stack does with tasks that are refused, missing, late, or cancelled after they have succeeded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2
from darkroom.poller.v1 import poller_pb2
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common.database.engine import Database
from libs.common.database.stores.alert_facts import read_facts
from sandbox.plan import SHIPPED_ALERT_RULES
from services.monitor.measures import World, holding
from services.monitor.rules import parse
from tests.conftest import quick
from tests.support.infrastructure import Infrastructure
from tests.support.receiver import receiver
from tests.support.rows import rows
from tests.support.running import CANCELLED, FAILED, SUCCESS, Running
from tests.support.simulator import Simulator, simulated
from tests.support.stacks import StackOfModule, stack_of_module
from tests.support.waiting import eventually

PROBE_SECONDS = 1.0
DEADLINE_SECONDS = 3
SETTINGS = {
    "DARKROOM_POLL_PROBE_SECONDS": str(PROBE_SECONDS),
    "DARKROOM_MISSING_POLL_SECONDS": "0.5",
    "DARKROOM_MISSING_BELIEVED_SECONDS": "0.5",
    "DARKROOM_LATE_POLL_FIRST_SECONDS": "1",
    "DARKROOM_LATE_POLL_LONGEST_SECONDS": "1",
}
MONEY = """
SELECT at_risk_usd::float AS at_risk, spent_usd::float AS spent, billing FROM submissions WHERE generation_id = :id"""
NO_MONEY = {"at_risk": 0.0, "spent": 0.0, "billing": None}
AT_RISK = {"at_risk": 0.04, "spent": 0.0, "billing": None}


def _adjust(catalog: dict[str, Any]) -> None:
    quick(catalog)
    polling = {"strategy": "fixed", "interval_seconds": 0.1, "max_duration_seconds": DEADLINE_SECONDS}
    catalog["models"]["flux-pro"]["polling"] = polling
    catalog["models"]["flux-schnell"]["polling"] = polling
    catalog["models"]["kling-v1-6"]["polling"] = polling
    catalog["models"]["flux-dev-fal"]["polling"] = {"strategy": "fixed", "interval_seconds": 60}
    catalog["providers"]["bfl"]["limits"]["concurrent_tasks"] = 1


@pytest.fixture(scope="module")
def module_stack(shared: Infrastructure) -> Iterator[StackOfModule]:
    with stack_of_module(shared, "reads_of_a_stack", settings=SETTINGS, adjust=_adjust) as found:
        yield found


async def _costs(database: Database, generation_id: str) -> None:
    """Its submission costs 0.04 USD by the catalog, whatever the model."""
    sql = (
        "UPDATE submissions SET expected_cost_usd = 0.04 WHERE generation_id = :id AND state = 'ACCEPTED' RETURNING id"
    )

    async def submitted() -> bool:
        return bool(await rows(database, sql, id=generation_id))

    await eventually(submitted, within=10, what="it is submitted")


async def _task_of(stack: Running, generation_id: str) -> poller_pb2.PollTask:
    generation = await stack.get(generation_id)
    request = poller_pb2.GetTaskStatusRequest(provider_id=generation.provider_id, task_id=generation.provider_task_id)
    return (await PollingServiceStub(stack.channel("poller")).GetTaskStatus(request, timeout=60)).task


async def test_a_key_that_is_revoked_for_longer_than_all_deadlines_loses_nothing(
    stack: Running, simulator: Simulator
) -> None:
    await simulator.behave(refused_reads={"kling": 401})
    prompts = [simulated(f"revoked {number}", task_seconds=1) for number in range(6)]
    made = await asyncio.gather(*(stack.create("kling-v1-6", prompt) for prompt in prompts))

    async def refused() -> float:
        return await stack.metric("poller", "darkroom_poller_polls_total", provider="kling", outcome="failure")

    await eventually(refused, within=10, what="a check is refused")
    started, before = monotonic(), await refused()

    async def is_long_enough() -> bool:
        return monotonic() - started > 3 * DEADLINE_SECONDS

    await eventually(is_long_enough, within=30, what="all deadlines are over")
    elapsed, probes = monotonic() - started, await refused() - before
    # Those that were on their way as the first one was refused may come on top.
    assert 3 <= probes <= elapsed / PROBE_SECONDS + len(made)
    assert [(await stack.get(one)).status for one in made] == [gateway_pb2.GENERATION_STATUS_PROCESSING] * len(made)
    await simulator.behave()
    ended = [await stack.ended(one) for one in made]
    assert [generation.status for generation in ended] == [SUCCESS] * len(made)
    assert sorted(bill["prompt"] for bill in await simulator.bills()) == sorted(prompts)


async def test_a_task_that_stays_missing_raises_one_alert_holds_no_slot_and_ends_with_its_money_at_risk(
    stack: Running, stack_database: Database
) -> None:
    faults = [{"operation": "check", "kind": "404"}]
    missing = await stack.create("flux-pro", simulated("missing", task_seconds=1, faults=faults))
    await _costs(stack_database, missing)
    rules = parse(SHIPPED_ALERT_RULES.read_text(), {}).rules.values()

    async def alerts() -> list[tuple[str, str]]:
        facts = await stack_database.transaction("facts", lambda c: read_facts(c, [3_600], [3_600]))
        return [(rule.name, found.subject) for rule in rules for found in holding(rule, facts, World())]

    await eventually(alerts, within=5, what="there is an alert")
    other = await stack.create("flux-pro", simulated("with a slot", task_seconds=0.1))
    assert await alerts() == [("TASKS_MISSING", "bfl")]
    assert (await stack.ended(other)).status == SUCCESS
    ended = await stack.ended(missing)
    assert (ended.status, ended.error.code) == (FAILED, common_pb2.ERROR_CODE_TASK_TIMEOUT)
    assert await rows(stack_database, MONEY, id=missing) == [AT_RISK]
    assert await alerts() == []


async def test_a_result_that_comes_after_the_deadline_is_stored_and_announced(
    stack: Running, stack_database: Database, simulator: Simulator
) -> None:
    async with receiver() as hook:
        prompt = simulated("late", task_seconds=DEADLINE_SECONDS + 2)
        timed_out = await stack.create("flux-pro", prompt, callback_url=hook.url)
        await _costs(stack_database, timed_out)
        ended = await stack.ended(timed_out)
        assert (ended.status, ended.error.code) == (FAILED, common_pb2.ERROR_CODE_TASK_TIMEOUT)
        assert (await _task_of(stack, timed_out)).state == poller_pb2.TASK_STATE_FAILED
        (before,) = await rows(stack_database, "SELECT * FROM generation_requests WHERE id = :id", id=timed_out)

        async def continued_by() -> str:
            return (await stack.get(timed_out)).continued_by_id

        late = await stack.ended(await eventually(continued_by, within=10, what="it is continued"))
        assert (late.status, late.continues_id, len(late.results)) == (SUCCESS, timed_out, 1)
        assert (await stack.get(timed_out)).status == FAILED
        assert await rows(stack_database, "SELECT * FROM generation_requests WHERE id = :id", id=timed_out) == [before]
        task = await _task_of(stack, timed_out)
        assert (task.state, task.generation_id) == (poller_pb2.TASK_STATE_SUCCESS, late.id)
        assert await rows(stack_database, MONEY, id=timed_out) == [
            {"at_risk": 0.0, "spent": 0.0, "billing": "CONTINUED"}
        ]

        async def told() -> bool:
            return any(kind == "generation.late_result" for _, kind in hook.events())

        await eventually(told, within=10, what="the late result is announced")
        (told_of,) = [request.json for request in hook.received if request.json["type"] == "generation.late_result"]
        assert {name: told_of["data"][name] for name in ("id", "continuesId", "status")} == {
            "id": late.id,
            "continuesId": timed_out,
            "status": "SUCCESS",
        }
        assert len(told_of["data"]["results"]) == 1
        kinds = sorted(kind for _, kind in hook.events())
        assert kinds == ["generation.failed", "generation.late_result", "generation.processing"]
        assert len(await simulator.bills(prompt)) == 1


async def test_a_late_report_of_a_failure_frees_the_money_at_risk(stack: Running, stack_database: Database) -> None:
    prompt = simulated("fails late", task_seconds=600)
    timed_out = await stack.create("flux-pro", prompt)
    await _costs(stack_database, timed_out)
    await stack.ended(timed_out)
    assert await rows(stack_database, MONEY, id=timed_out) == [AT_RISK]
    task = await _task_of(stack, timed_out)
    error = common_pb2.GenerationError(code=common_pb2.ERROR_CODE_TASK_FAILED, message="it has failed")
    report = poller_pb2.ReportTaskRequest(
        provider_id=task.provider_id, task_id=task.task_id, state=poller_pb2.TASK_STATE_FAILED, error=error
    )
    await PollingServiceStub(stack.channel("poller")).ReportTask(report, timeout=60)
    assert await rows(stack_database, MONEY, id=timed_out) == [{**NO_MONEY, "billing": "NOT_BILLED"}]


async def test_a_vendor_that_confirms_the_stop_leaves_no_money_at_risk(
    stack: Running, stack_database: Database
) -> None:
    stopped = await stack.create("flux-schnell", simulated("stopped", task_seconds=600))
    await _costs(stack_database, stopped)
    ended = await stack.ended(stopped)
    assert ended.error.code == common_pb2.ERROR_CODE_TASK_TIMEOUT
    assert ended.error.details["cancelled_at_provider"] is True
    assert await rows(stack_database, MONEY, id=stopped) == [NO_MONEY]


@pytest.mark.parametrize(("task_seconds", "cost_usd"), [(0.1, 0.025), (600, None)])
async def test_a_cancel_after_the_vendor_has_succeeded_ends_with_what_it_cost(
    stack: Running, stack_database: Database, simulator: Simulator, *, task_seconds: float, cost_usd: float | None
) -> None:
    prompt = simulated("cancelled", task_seconds=task_seconds)
    made = await stack.create("flux-dev-fal", prompt)
    await _costs(stack_database, made)

    async def is_ready() -> bool:
        ((row,),) = [await rows(stack_database, "SELECT now() - created_at > interval '1 s' AS it FROM poll_tasks "
                                          "WHERE generation_id = :id", id=made)]  # fmt: skip
        return bool(row["it"])

    await eventually(is_ready, within=5, what="the vendor has had a second")
    await stack.cancel(made)
    assert (await stack.ended(made)).status == CANCELLED
    (row,) = await rows(stack_database, "SELECT cost_usd, outputs FROM generation_requests WHERE id = :id", id=made)
    assert row == {"cost_usd": cost_usd, "outputs": None}


@pytest.mark.parametrize(
    "expired_reply",
    ["403", *(pytest.param(reply, marks=pytest.mark.slow) for reply in ("400", "404", "410", "416", "html"))],
)
async def test_a_url_that_has_expired_is_replaced_by_a_new_check(
    stack: Running, simulator: Simulator, expired_reply: str
) -> None:
    faults = [{"operation": "result", "kind": "503", "times": 6}]
    prompt = simulated(
        f"expired {expired_reply}", task_seconds=0.1, result_seconds=1.2, expired_reply=expired_reply, faults=faults
    )
    made = await stack.ended(await stack.create("flux-pro", prompt))
    assert made.status == SUCCESS, made.error
    assert len(await simulator.bills(prompt)) == 1
