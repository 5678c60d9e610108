"""Accounts that refuse our credentials, and tasks that their provider does not know, on a real Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import Grant, NewTask
from libs.common.database.records_tasks import PollOutcome, StoreOutcome
from libs.common.database.states import State, TaskState
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.claiming import ClaimStore
from libs.common.database.stores.pauses import PausePolicy
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from libs.common.errors import ErrorCode, GenerationError
from tests.support.rows import execute, insert, new_generation, rows

REFUSED = GenerationError(ErrorCode.AUTHENTICATION_FAILED, "no", {"http_status": 401}).to_json()
MISSING = GenerationError(ErrorCode.NOT_FOUND, "no", {"http_status": 404}).to_json()
SOURCES: list[dict[str, Any]] = [{"type": "video", "url": "https://api.example.com/1", "needs_credentials": True}]
PAUSES = PausePolicy(probe_seconds=30, limit_seconds=86_400)
DUE = "UPDATE provider_accounts SET polls_probe_at = now()"


def _polls(database: Database, owner: str = "one") -> PollStore:
    return PollStore(database, owner=owner, lease_seconds=30, pauses=PAUSES)


def _results(database: Database, owner: str = "one") -> ResultStore:
    return ResultStore(database, owner=owner, lease_seconds=30, pauses=PAUSES)


async def _tasks(database: Database, count: int, *, seconds: int = 600) -> None:
    for number in range(count):
        await _polls(database).adopt(new_generation(), NewTask(f"t{number}", "flux", None, "fixed", 100, seconds))
    await execute(database, "UPDATE poll_tasks SET next_poll_at = now() - interval '1 s'")


async def _refuse(database: Database) -> None:
    """The first check of one task is refused."""
    task, *others = await _polls(database).claim({"bfl": 100})
    await _polls(database).end([PollOutcome(*task.lease, None, has_failed=True, error=REFUSED, is_refused=True)])
    await _polls(database).end([PollOutcome(*other.lease, TaskState.PROCESSING) for other in others])
    await execute(database, "UPDATE poll_tasks SET next_poll_at = now() - interval '1 s'")


async def _age_of_the_pause(database: Database, seconds: float) -> None:
    """As if all had begun so much earlier."""
    age = "- make_interval(secs => :seconds)"
    await execute(database, f"UPDATE provider_accounts SET polls_paused_at = polls_paused_at {age}", seconds=seconds)
    await execute(
        database, f"UPDATE poll_tasks SET created_at = created_at {age}, deadline_at = deadline_at {age}",
        seconds=seconds,
    )  # fmt: skip


async def test_a_paused_account_is_probed_by_one_of_all_pollers(database: Database) -> None:
    await _tasks(database, 10)
    await _refuse(database)
    pollers = [_polls(database, f"poller-{number}") for number in range(4)]
    assert [await poller.claim({"bfl": 10}) for poller in pollers] == [[], [], [], []]
    for _ in range(3):
        await execute(database, DUE)
        claimed = await asyncio.gather(*(poller.claim({"bfl": 10}) for poller in pollers))
        (probe,) = [task for found in claimed for task in found]
        assert (probe.is_paused, probe.may_call) == (True, True)
        await execute(database, "UPDATE poll_tasks SET lease_until = NULL")


async def test_a_probe_is_made_though_no_task_is_due(database: Database) -> None:
    await _tasks(database, 1)
    await _refuse(database)
    await execute(database, "UPDATE poll_tasks SET next_poll_at = now() + interval '1 hour'")
    await execute(database, DUE)
    assert len(await _polls(database).claim({"bfl": 10})) == 1


async def test_other_accounts_go_on_during_a_pause(database: Database) -> None:
    await _tasks(database, 1)
    await _refuse(database)
    await _polls(database).adopt(new_generation(provider_id="fal"), NewTask("f", "fal", None, "fixed", 100, 60))
    await execute(database, "UPDATE poll_tasks SET next_poll_at = now() - interval '1 s'")
    assert [task.task_id for task in await _polls(database).claim({"bfl": 10, "fal": 10})] == ["f"]


async def test_deadlines_stand_still_during_a_pause_and_move_by_its_length(database: Database) -> None:
    await _tasks(database, 2, seconds=600)
    await _refuse(database)
    await _age_of_the_pause(database, 1_200)
    await execute(database, DUE)
    (probe,) = await _polls(database).claim({"bfl": 10})
    assert 500 < probe.seconds_left <= 600
    alive = PollOutcome(*probe.lease, TaskState.PROCESSING, is_answered=True, ends_pause=True)
    assert await _polls(database).end([alive]) == [State.PROCESSING]
    claimed = await _polls(database).claim({"bfl": 10})
    assert len(claimed) == 2
    assert all(500 < task.seconds_left <= 600 and not task.is_paused for task in claimed)
    assert await rows(database, "SELECT polls_paused_at, polls_probe_at FROM provider_accounts") == [
        {"polls_paused_at": None, "polls_probe_at": None}
    ]


async def test_after_a_day_of_refusals_tasks_end_without_a_call(database: Database) -> None:
    await _tasks(database, 3, seconds=600)
    await _refuse(database)
    await _age_of_the_pause(database, 86_400 + 500)
    assert await _polls(database).claim({"bfl": 10}) == []
    await _age_of_the_pause(database, 200)
    claimed = await _polls(database).claim({"bfl": 10})
    assert len(claimed) == 3
    assert all(task.seconds_left < 0 and not task.may_call for task in claimed)


async def test_a_cancel_is_served_during_a_pause(database: Database) -> None:
    await _tasks(database, 3)
    await _refuse(database)
    (row, *_) = await rows(database, "SELECT generation_id FROM poll_tasks ORDER BY task_id")
    await CancelStore(database).request(row["generation_id"])
    (task,) = await _polls(database).claim({"bfl": 10})
    assert (task.generation_id, task.is_cancel_requested, task.may_call) == (row["generation_id"], True, False)


async def test_a_refusal_at_the_deadline_leaves_time_for_another_check(database: Database) -> None:
    await _tasks(database, 1)
    await execute(database, "UPDATE poll_tasks SET deadline_at = now()")
    await _refuse(database)
    await execute(database, DUE)
    (task,) = await _polls(database).claim({"bfl": 10})
    assert task.seconds_left > 30
    assert task.may_call


async def test_a_result_that_needs_credentials_is_probed_during_a_pause_and_ends_it(database: Database) -> None:
    await _tasks(database, 2)
    claimed = await _polls(database).claim({"bfl": 10})
    await _polls(database).end(
        [PollOutcome(*t.lease, TaskState.SUCCESS, generation_state=State.STORING, sources=SOURCES) for t in claimed]
    )
    first, second = await _results(database).claim(10)
    assert (first.needs_credentials, first.task is not None) == (True, True)
    refused = [
        StoreOutcome(result.id, result.lease_token, State.STORING, error=REFUSED, refused_by="bfl")
        for result in (first, second)
    ]
    assert await _results(database).end(refused) == [True, True]
    assert await _results(database).claim(10) == []
    await _age_of_the_pause(database, 1_200)
    await execute(database, DUE)
    both = await asyncio.gather(*(_results(database, f"poller-{number}").claim(10) for number in range(3)))
    ((owner, result),) = [(number, result) for number, found in enumerate(both) for result in found]
    stored = StoreOutcome(result.id, result.lease_token, State.SUCCESS, outputs=[], taken_by="bfl")
    assert await _results(database, f"poller-{owner}").end([stored]) == [True]
    (other,) = await _results(database).claim(10)
    assert other.task_seconds_left is not None
    assert other.task_seconds_left >= 1_190


async def test_results_at_other_hosts_are_stored_during_a_pause(database: Database) -> None:
    await _tasks(database, 1)
    (task,) = await _polls(database).claim({"bfl": 10})
    sources = [{"type": "image", "url": "https://delivery.example.com/1.png"}]
    ready = PollOutcome(*task.lease, TaskState.SUCCESS, generation_state=State.STORING, sources=sources)
    await _polls(database).end([ready])
    await execute(
        database,
        "INSERT INTO provider_accounts (provider_id, polls_paused_at, polls_probe_at) VALUES ('bfl', now(), now())",
    )
    assert len(await _results(database).claim(10)) == 1


async def test_a_result_keeps_its_cost_when_it_is_given_up_and_takes_fresh_urls(database: Database) -> None:
    await _tasks(database, 1)
    (task,) = await _polls(database).claim({"bfl": 10})
    ready = PollOutcome(*task.lease, TaskState.SUCCESS, generation_state=State.STORING, sources=SOURCES, cost_usd=0.04)
    await _polls(database).end([ready])
    (result,) = await _results(database).claim(10)
    fresh = [{"type": "video", "url": "https://api.example.com/2"}]
    again = StoreOutcome(result.id, result.lease_token, State.STORING, error=MISSING, sources=fresh)
    assert await _results(database).end([again]) == [True]
    (result,) = await _results(database).claim(10)
    assert result.sources == fresh
    assert await _results(database).end([StoreOutcome(result.id, result.lease_token, State.FAILED, error=MISSING)])
    (row,) = await rows(database, "SELECT state, cost_usd, error FROM generation_requests")
    assert row == {"state": "FAILED", "cost_usd": 0.04, "error": MISSING}


async def _places(database: Database) -> int:
    """How many of 10 waiting generations an account with 2 concurrency slots takes."""

    def decide(account: Any) -> Grant:
        return Grant(account, places=10, concurrent_tasks=2)

    claims = ClaimStore(database, owner="dispatcher", lease_seconds=30)
    claimed = await claims.claim(["bfl"], decide)
    await claims.give_back([one.claim for one in claimed])
    return len(claimed)


@pytest.mark.parametrize("has_come_back", [True, False])
async def test_a_missing_task_holds_no_concurrency_slot_until_it_is_known_again(
    database: Database, *, has_come_back: bool
) -> None:
    await _tasks(database, 2)
    await insert(database, [new_generation() for _ in range(10)])
    assert await _places(database) == 0
    one, other = await _polls(database).claim({"bfl": 10})
    missing = PollOutcome(*one.lease, None, has_failed=True, error=MISSING, is_missing=True)
    known = PollOutcome(*other.lease, TaskState.PROCESSING, is_answered=True)
    await _polls(database).end([missing, known])
    (since,) = await rows(database, "SELECT missing_since FROM poll_tasks WHERE missing_since IS NOT NULL")
    assert await _places(database) == 1
    for is_answered in (False, has_come_back):
        task, _ = sorted(await _polls(database).claim({"bfl": 10}), key=lambda task: task.task_id != one.task_id)
        again = PollOutcome(*task.lease, None, is_missing=not is_answered, is_answered=is_answered)
        await _polls(database).end([again])
        await execute(database, "UPDATE poll_tasks SET lease_until = NULL")
    found = await rows(database, "SELECT missing_since FROM poll_tasks WHERE missing_since IS NOT NULL")
    assert found == ([] if has_come_back else [since])
    assert await _places(database) == (0 if has_come_back else 1)
