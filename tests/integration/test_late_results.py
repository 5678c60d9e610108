"""Money and results of tasks that were given up: kept at risk, and stored as continuations, on a real Postgres."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import NewTask
from libs.common.database.records_tasks import PollOutcome
from libs.common.database.states import State
from libs.common.database.stores.late_results import LateResult
from libs.common.database.stores.second_payment import open_payments
from libs.common.database.stores.submissions import Decision, SubmissionStore
from libs.common.errors import ErrorCode
from tests.support.late import (
    CANCEL,
    CONTINUATIONS,
    MONEY,
    SOURCES,
    STORING,
    TIMEOUT,
    error_of,
    given_up,
    late_store,
    polls,
    settle,
    submitted,
)
from tests.support.rows import execute, insert, new_generation, rows


@pytest.mark.parametrize(("is_at_risk", "at_risk_usd"), [(True, 0.04), (False, 0.0)])
@pytest.mark.parametrize("end", [TIMEOUT, CANCEL], ids=["timeout", "cancel"])
async def test_an_end_that_is_not_confirmed_leaves_its_money_at_risk(
    database: Database, end: PollOutcome, *, is_at_risk: bool, at_risk_usd: float
) -> None:
    await given_up(database, replace(end, is_at_risk=is_at_risk))
    assert await rows(database, MONEY) == [{"at_risk": at_risk_usd, "spent": 0.0, "billing": None}]
    (task,) = await rows(database, "SELECT late_poll_at > now() AS is_late FROM poll_tasks")
    assert task["is_late"] is (True if is_at_risk else None)


async def test_a_success_after_a_failure_is_stored_and_a_second_failure_changes_nothing(database: Database) -> None:
    failed = replace(TIMEOUT, error=error_of(ErrorCode.TASK_FAILED), is_at_risk=False)
    generation_id = await given_up(database, failed)
    (before,) = await rows(database, "SELECT * FROM generation_requests WHERE id = :id", id=generation_id)
    assert await late_store(database).get("bfl", "t", is_success=False) is None
    continued_by = await settle(database, STORING)
    (late,) = await rows(database, CONTINUATIONS)
    assert (late["id"], late["continues_id"], late["state"]) == (continued_by, generation_id, "STORING")
    assert await rows(database, "SELECT * FROM generation_requests WHERE id = :id", id=generation_id) == [before]
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.0, "billing": "CONTINUED"}]
    assert await late_store(database).get("bfl", "t", is_success=True) is None, "the second time it is known"


async def test_a_removed_task_leaves_its_money_at_risk(database: Database) -> None:
    await submitted(database)
    assert await polls(database).remove("bfl", "t", '{"code": "TASK_CANCELLED"}')
    assert await rows(database, MONEY) == [{"at_risk": 0.04, "spent": 0.0, "billing": None}]


async def test_a_late_result_is_stored_by_a_generation_that_continues_the_one_that_timed_out(
    database: Database,
) -> None:
    generation_id = await given_up(database, user_id="u", labels={"team": "red"})
    (before,) = await rows(database, "SELECT * FROM generation_requests WHERE id = :id", id=generation_id)
    continued_by = await settle(database, STORING)
    (late,) = await rows(database, CONTINUATIONS)
    assert (late["id"], late["continues_id"], late["is_late"]) == (continued_by, generation_id, True)
    assert (late["state"], late["sources"], late["cost_usd"]) == ("STORING", SOURCES, 0.03)
    assert (float(late["reserved_usd"]), late["provider_task_id"]) == (0.04, "t")
    same = ("model_identifier", "prompt", "parameters", "user_id", "labels", "api_key_id", "owner", "callback_url")
    assert [late[name] for name in same] == [before[name] for name in same]
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.0, "billing": "CONTINUED"}]
    assert await rows(database, "SELECT * FROM generation_requests WHERE id = :id", id=generation_id) == [before]
    task = await polls(database).get("bfl", "t")
    assert task is not None
    assert (task.generation_id, task.state, task.ended_at is not None) == (continued_by, "SUCCESS", True)


async def test_a_late_result_comes_once_whoever_brings_it(database: Database) -> None:
    await given_up(database)
    task = await late_store(database).get("bfl", "t", is_success=False)
    assert task is not None
    made = await asyncio.gather(*(late_store(database).record(task, STORING) for _ in range(8)))
    assert len([one for one in made if one]) == 1
    assert len(await rows(database, CONTINUATIONS)) == 1


async def test_the_late_result_of_a_cancelled_generation_is_only_paid_for(database: Database) -> None:
    await given_up(database, CANCEL)
    assert await settle(database, STORING) is None
    assert await rows(database, CONTINUATIONS) == []
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.03, "billing": "BILLED"}]


async def test_the_late_result_of_a_task_that_its_provider_called_cancelled_is_stored(database: Database) -> None:
    generation_id = await given_up(database, CANCEL, is_wanted=True)
    made = await settle(database, STORING)
    (late,) = await rows(database, CONTINUATIONS)
    assert (late["id"], late["continues_id"], late["state"]) == (made, generation_id, "STORING")


async def _attached(database: Database) -> str:
    """A generation that continues one whose uncertain submission was attached to its task, which is given up then."""
    generation = new_generation(api_key_id="key_1")
    await insert(database, [generation])
    for state in ("'DISPATCHING'", "'FAILED', ended_at = now(), error = '{\"code\": \"SUBMISSION_UNCERTAIN\"}'"):
        await execute(database, f"UPDATE generation_requests SET state = {state} WHERE id = :id", id=generation.id)
    await execute(
        database,
        """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at, expected_cost_usd,
            at_risk_usd) VALUES ('sub_1', :id, 1, 'bfl', 'UNCERTAIN', now(), 0.04, 0.04)""",
        id=generation.id,
    )
    task = NewTask("t", "flux", None, "fixed", 100, 60)
    attached = Decision("ATTACHED", task=task)
    continued_by = await SubmissionStore(database).resolve("sub_1", attached, new_id="gen_attached")
    assert continued_by == "gen_attached"
    (claimed,) = await polls(database).claim({"bfl": 1})
    end = replace(TIMEOUT, generation_id=claimed.generation_id, lease_token=claimed.lease_token)
    assert await polls(database).end([end]) == [State.FAILED]
    return "gen_attached"


@pytest.mark.parametrize(
    ("result", "money"),
    [
        (STORING, {"at_risk": 0.0, "spent": 0.0, "billing": "CONTINUED"}),
        (LateResult(State.FAILED), {"at_risk": 0.0, "spent": 0.0, "billing": "NOT_BILLED"}),
    ],
)
async def test_money_of_an_attached_task_is_at_risk_until_a_late_answer(
    database: Database, result: LateResult, money: dict[str, Any]
) -> None:
    generation_id = await _attached(database)
    assert await rows(database, MONEY) == [{"at_risk": 0.04, "spent": 0.0, "billing": None}]
    payments = await database.transaction("test", lambda c: open_payments(c, [generation_id]))
    assert [one.submission_id for one in payments] == ["sub_1"], "to submit it again needs consent"
    continued_by = await settle(database, result)
    assert await rows(database, MONEY) == [money]
    late = await rows(database, "SELECT id, continues_id FROM generation_requests WHERE is_late")
    assert late == ([{"id": continued_by, "continues_id": generation_id}] if continued_by else [])
    assert (continued_by is None) == (result.state is State.FAILED)


@pytest.mark.parametrize("column", ["continues_id", "rerun_of_id"])
async def test_money_at_risk_of_what_a_generation_was_made_from_asks_consent_as_well(
    database: Database, column: str
) -> None:
    original = await given_up(database)
    again = new_generation()
    await insert(database, [again])
    await execute(database, f"UPDATE generation_requests SET {column} = :of WHERE id = :id", of=original, id=again.id)
    payments = await database.transaction("test", lambda c: open_payments(c, [again.id]))
    assert [one.generation_id for one in payments] == [original]


async def test_a_late_result_keeps_the_cost_that_an_operator_recorded(database: Database) -> None:
    generation_id = await given_up(database)
    await SubmissionStore(database).resolve("sub_1", Decision(billing="BILLED", cost_usd=0.3), new_id="gen_unused")
    await settle(database, STORING)
    (late,) = await rows(database, CONTINUATIONS)
    assert (late["continues_id"], late["cost_usd"]) == (generation_id, 0.3)
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.0, "billing": "CONTINUED"}]


async def test_a_task_that_another_backend_submitted_is_at_risk_once_it_is_given_up(database: Database) -> None:
    task = NewTask("t", "flux", None, "fixed", 100, 60)
    await polls(database).adopt(new_generation(expected_cost_usd=0.04), task)
    await execute(database, "UPDATE poll_tasks SET next_poll_at = now()")
    (claimed,) = await polls(database).claim({"bfl": 1})
    end = replace(TIMEOUT, generation_id=claimed.generation_id, lease_token=claimed.lease_token)
    assert await polls(database).end([end]) == [State.FAILED]
    assert await rows(database, MONEY) == [{"at_risk": 0.04, "spent": 0.0, "billing": None}]


async def test_money_counted_as_spent_is_corrected_by_the_providers_late_answer(database: Database) -> None:
    await given_up(database)
    await execute(
        database,
        "UPDATE submissions SET spent_usd = at_risk_usd, at_risk_usd = 0, billing = 'COUNTED', billing_at = now()",
    )
    assert await settle(database, LateResult(State.FAILED)) is None
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.0, "billing": "NOT_BILLED"}]


@pytest.mark.parametrize(("operator", "billing"), [(None, "BILLED"), ("NOT_BILLED", "NOT_BILLED")])
async def test_a_success_after_a_failure_is_paid_for_unless_an_operator_knows_better(
    database: Database, operator: Any, billing: str
) -> None:
    await given_up(database, CANCEL)
    if operator is not None:
        await SubmissionStore(database).resolve("sub_1", Decision(billing=operator), new_id="gen_2")
    await settle(database, LateResult(State.FAILED))
    await settle(database, STORING)
    (money,) = await rows(database, MONEY)
    assert money == {"at_risk": 0.0, "spent": 0.03 if billing == "BILLED" else 0.0, "billing": billing}


async def test_a_deleted_generation_gets_no_late_result(database: Database) -> None:
    generation_id = await given_up(database)
    await execute(database, "UPDATE generation_requests SET deleted_at = now() WHERE id = :id", id=generation_id)
    assert await settle(database, LateResult(State.SUCCESS, outputs=SOURCES)) is None
    assert await rows(database, CONTINUATIONS) == []
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.04, "billing": "BILLED"}]


@pytest.mark.parametrize("end", [TIMEOUT, CANCEL], ids=["timeout", "cancel"])
async def test_a_late_failure_frees_the_money_at_risk(database: Database, end: PollOutcome) -> None:
    await given_up(database, end)
    assert await settle(database, LateResult(State.FAILED)) is None
    assert await rows(database, CONTINUATIONS) == []
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.0, "billing": "NOT_BILLED"}]
    assert await rows(database, "SELECT late_poll_at FROM poll_tasks") == [{"late_poll_at": None}]


async def test_a_known_cost_is_not_counted_again(database: Database) -> None:
    await given_up(database, replace(CANCEL, is_at_risk=False, cost_usd=0.04))
    assert await settle(database, STORING) is None
    assert await rows(database, MONEY) == [{"at_risk": 0.0, "spent": 0.0, "billing": None}]


@pytest.mark.parametrize("state", [State.STORING, State.SUCCESS])
async def test_a_late_result_has_a_callback_of_its_own_and_no_other(database: Database, state: State) -> None:
    generation_id = await given_up(database)
    late = LateResult(state, sources=SOURCES) if state is State.STORING else LateResult(state, outputs=SOURCES)
    continued_by = await settle(database, late)
    if state is State.STORING:
        await execute(
            database,
            "UPDATE generation_requests SET state = 'SUCCESS', outputs = '[]', ended_at = now() WHERE id = :id",
            id=continued_by,
        )
    events = await rows(database, "SELECT generation_id, event, url FROM callbacks ORDER BY created_at, event")
    assert [row["event"] for row in events if row["generation_id"] == generation_id][-1] == "generation.failed"
    assert [row for row in events if row["generation_id"] == continued_by] == [
        {"generation_id": continued_by, "event": "generation.late_result", "url": "https://example.com/cb"}
    ]


async def test_a_late_result_that_is_lost_after_all_is_no_news(database: Database) -> None:
    await given_up(database)
    continued_by = await settle(database, STORING)
    ended = """UPDATE generation_requests SET state = 'FAILED', error = '{"code": "PROVIDER_ERROR"}', ended_at = now()
        WHERE id = :id"""
    await execute(database, ended, id=continued_by)
    assert await rows(database, "SELECT event FROM callbacks WHERE generation_id = :id", id=continued_by) == []
