"""Claims and outcomes of pollers, and of results being stored, on a real Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.database.engine import Database
from libs.common.database.records import Lease
from libs.common.database.records_dispatch import NewTask
from libs.common.database.records_tasks import PollOutcome, StoreOutcome
from libs.common.database.states import IllegalTransition, State, TaskState
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from tests.support.rows import execute, new_generation, rows
from tests.support.waiting import eventually

ERROR: dict[str, Any] = {"code": "TASK_FAILED", "message": "no", "details": {}, "is_retryable": False}
SOURCES: list[dict[str, Any]] = [{"type": "image", "url": "https://example.com/1.png"}]


def _polls(database: Database, owner: str = "one") -> PollStore:
    return PollStore(database, owner=owner, lease_seconds=30)


def _results(database: Database, owner: str = "one") -> ResultStore:
    return ResultStore(database, owner=owner, lease_seconds=30)


async def _tasks(database: Database, count: int) -> None:
    for number in range(count):
        task = NewTask(f"task_{number}", "flux", None, "fixed", 100, 60)
        await _polls(database).adopt(new_generation(), task)
    await execute(database, "UPDATE poll_tasks SET next_poll_at = now() - interval '1 s'")


async def _expire(database: Database) -> None:
    await execute(database, "UPDATE poll_tasks SET lease_until = now() - interval '1 s'")
    await execute(database, "UPDATE generation_requests SET lease_until = now() - interval '1 s'")


async def test_concurrent_claims_share_the_tasks_without_overlap(database: Database) -> None:
    await _tasks(database, 30)
    claimed = await asyncio.gather(*(_polls(database, f"owner-{n}").claim({"bfl": 10}) for n in range(4)))
    ids = [task.task_id for group in claimed for task in group]
    assert (len(ids), len(set(ids))) == (30, 30)


async def test_a_claim_leaves_out_what_another_claims_at_the_moment(database: Database) -> None:
    await _tasks(database, 2)
    with database.engine.connect() as other:
        other.execute(sa.text("SELECT FROM poll_tasks WHERE task_id = 'task_0' FOR UPDATE"))
        claimed = await _polls(database).claim({"bfl": 10})
    assert [task.task_id for task in claimed] == ["task_1"]


async def test_a_claim_tells_whether_the_vendor_has_answered_for_the_task(database: Database) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    (task,) = await store.claim({"bfl": 1})
    assert not task.is_answered
    await store.end([PollOutcome(*task.lease, TaskState.PROCESSING, is_answered=True, delay_seconds=0)])
    (task,) = await store.claim({"bfl": 1})
    assert task.is_answered


async def test_a_task_that_is_not_due_is_left(database: Database) -> None:
    await _polls(database).adopt(new_generation(), NewTask("later", "flux", None, "fixed", 60_000, 600))
    assert await _polls(database).claim({"bfl": 10}) == []


async def test_a_poll_without_an_end_counts_and_waits(database: Database) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    (task,) = await store.claim({"bfl": 10})
    outcome = PollOutcome(*task.lease, TaskState.PROCESSING, progress=40, delay_seconds=60)
    assert await store.end([outcome]) == [State.PROCESSING]
    (row,) = await rows(database, "SELECT state, progress, attempts, retry_count, lease_owner FROM poll_tasks")
    assert row == {"state": "PROCESSING", "progress": 40, "attempts": 1, "retry_count": 0, "lease_owner": None}


async def test_progress_never_goes_back(database: Database) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    for progress in (60, 20, None):
        (task,) = await store.claim({"bfl": 10})
        await store.end([PollOutcome(*task.lease, TaskState.PROCESSING, progress=progress)])
    (row,) = await rows(database, "SELECT progress FROM poll_tasks")
    assert row["progress"] == 60


async def test_failed_polls_are_counted_until_one_gets_through(database: Database) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    for expected, failed in ((1, True), (2, True), (0, False)):
        (task,) = await store.claim({"bfl": 10})
        error = ERROR if failed else None
        await store.end([PollOutcome(*task.lease, None, has_failed=failed, error=error)])
        (row,) = await rows(database, "SELECT retry_count, last_error FROM poll_tasks")
        assert row == {"retry_count": expected, "last_error": ERROR}


@pytest.mark.parametrize(
    ("state", "facts", "has_ended"),
    [
        (State.STORING, {"sources": SOURCES}, False),
        (State.SUCCESS, {"outputs": SOURCES}, True),
        (State.FAILED, {"error": ERROR}, True),
        (State.CANCELLED, {"error": ERROR}, True),
    ],
)
async def test_the_end_of_a_task_moves_its_generation(
    database: Database, state: State, facts: dict[str, Any], has_ended: bool
) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    (task,) = await store.claim({"bfl": 10})
    outcome = PollOutcome(*task.lease, TaskState.SUCCESS, generation_state=state, **facts)
    await store.end([outcome])
    (row,) = await rows(database, "SELECT state, ended_at IS NOT NULL AS has_ended FROM generation_requests")
    assert row == {"state": state.value, "has_ended": has_ended}
    assert await store.claim({"bfl": 10}) == []


async def test_a_late_outcome_of_a_lost_lease_changes_nothing(database: Database) -> None:
    await _tasks(database, 1)
    sleeper, other = _polls(database, "sleeper"), _polls(database, "other")
    (task,) = await sleeper.claim({"bfl": 10})
    await _expire(database)
    (again,) = await other.claim({"bfl": 10})
    late = PollOutcome(
        *task.lease,
        TaskState.FAILED,
        generation_state=State.FAILED,
        error=ERROR,
    )
    assert await sleeper.end([late]) == [None]
    (row,) = await rows(database, "SELECT state FROM generation_requests")
    assert row["state"] == "PROCESSING"
    assert again.lease_token == task.lease_token + 1


@pytest.mark.parametrize("is_success_first", [True, False])
async def test_of_two_reports_written_together_the_later_claim_alone_counts(
    database: Database, *, is_success_first: bool
) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    first, second = await store.take("bfl", "task_0"), await store.take("bfl", "task_0")
    assert first is not None
    assert second is not None
    claims = (first, second) if is_success_first else (second, first)
    success = PollOutcome(*claims[0].lease, TaskState.SUCCESS, generation_state=State.STORING, sources=SOURCES)
    failure = PollOutcome(*claims[1].lease, TaskState.FAILED, generation_state=State.FAILED, error=ERROR)
    written = await store.end([success, failure])
    assert written == ([None, State.FAILED] if is_success_first else [State.STORING, None])
    (row,) = await rows(
        database,
        "SELECT t.state AS task, g.state FROM poll_tasks t JOIN generation_requests g ON g.id = t.generation_id",
    )
    expected = {"task": "FAILED", "state": "FAILED"} if is_success_first else {"task": "SUCCESS", "state": "STORING"}
    assert row == expected


async def test_a_terminal_generation_never_changes(database: Database) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    (task,) = await store.claim({"bfl": 10})
    assert await store.remove("bfl", task.task_id, '{"code": "TASK_CANCELLED"}')
    outcome = PollOutcome(
        *task.lease,
        TaskState.SUCCESS,
        generation_state=State.SUCCESS,
        outputs=SOURCES,
    )
    assert await store.end([outcome]) == [None]
    (row,) = await rows(database, "SELECT state, outputs FROM generation_requests")
    assert row == {"state": "CANCELLED", "outputs": None}


async def test_an_illegal_end_raises_before_anything_is_written(database: Database) -> None:
    with pytest.raises(IllegalTransition):
        await _polls(database).end([PollOutcome("bfl", "t", "gen_1", 1, None, generation_state=State.PENDING)])


async def test_given_back_tasks_are_free_at_once(database: Database) -> None:
    await _tasks(database, 3)
    leaving, other = _polls(database, "leaving"), _polls(database, "other")
    claimed = await leaving.claim({"bfl": 10})
    assert await other.claim({"bfl": 10}) == []
    await leaving.give_back([task.claim for task in claimed])
    assert len(await other.claim({"bfl": 10})) == 3


async def test_renewing_keeps_a_lease(database: Database) -> None:
    await _tasks(database, 1)
    holder, other = _polls(database, "holder"), _polls(database, "other")
    (task,) = await holder.claim({"bfl": 10})
    await _expire(database)
    await holder.renew([task.claim])
    assert await other.claim({"bfl": 10}) == []


async def test_a_task_handed_in_twice_is_one(database: Database) -> None:
    task = NewTask("theirs", "flux", None, "fixed", 100, 60)
    answers = await asyncio.gather(*(_polls(database).adopt(new_generation(), task) for _ in range(6)))
    assert len({generation_id for generation_id, _ in answers}) == 1
    assert sorted(created for _, created in answers) == [False] * 5 + [True]
    assert len(await rows(database, "SELECT id FROM generation_requests")) == 1


async def _storing(database: Database) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    (task,) = await store.claim({"bfl": 10})
    await store.end(
        [
            PollOutcome(
                *task.lease,
                TaskState.SUCCESS,
                generation_state=State.STORING,
                sources=SOURCES,
                cost_usd=0.04,
            )
        ]
    )


async def test_a_stored_result_ends_its_generation(database: Database) -> None:
    await _storing(database)
    store = _results(database)
    (claimed,) = await store.claim(10)
    assert (claimed.sources, claimed.store_attempts) == (SOURCES, 1)
    outcome = StoreOutcome(claimed.id, claimed.lease_token, State.SUCCESS, outputs=[{"object_key": "k"}])
    assert await store.end([outcome]) == [True]
    (row,) = await rows(database, "SELECT state, outputs, sources, cost_usd FROM generation_requests")
    assert row == {"state": "SUCCESS", "outputs": [{"object_key": "k"}], "sources": None, "cost_usd": 0.04}


async def test_a_result_that_could_not_be_stored_keeps_its_sources(database: Database) -> None:
    await _storing(database)
    store = _results(database)
    (claimed,) = await store.claim(10)
    again = StoreOutcome(claimed.id, claimed.lease_token, State.STORING, error=ERROR, delay_seconds=0)
    assert await store.end([again]) == [True]
    (claimed,) = await store.claim(10)
    assert (claimed.sources, claimed.store_attempts) == (SOURCES, 2)


async def test_a_result_is_stored_by_one_and_a_late_one_is_fenced(database: Database) -> None:
    await _storing(database)
    sleeper, other = _results(database, "sleeper"), _results(database, "other")
    (claimed,) = await sleeper.claim(10)
    assert await other.claim(10) == []
    await _expire(database)
    (taken,) = await other.claim(10)
    late = StoreOutcome(claimed.id, claimed.lease_token, State.FAILED, error=ERROR)
    assert await sleeper.end([late]) == [False]
    assert await other.end([StoreOutcome(taken.id, taken.lease_token, State.SUCCESS, outputs=[])]) == [True]


async def test_older_claim_of_a_result_never_renews_a_newer_one(database: Database) -> None:
    await _storing(database)
    store, other = _results(database), _results(database, "other")
    (old,) = await store.claim(10)
    await _expire(database)
    (new,) = await store.claim(10)
    await _expire(database)
    await store.renew([old.claim])
    await store.give_back([old.claim])
    (row,) = await rows(database, "SELECT lease_owner, lease_until < now() AS has_ended FROM generation_requests")
    assert row == {"lease_owner": "one", "has_ended": True}
    await store.renew([old.claim, new.claim])
    assert await other.claim(10) == []
    await store.give_back([new.claim])
    assert len(await other.claim(10)) == 1


async def test_the_token_of_another_generation_renews_nothing(database: Database) -> None:
    await _storing(database)
    store = _results(database)
    (old,) = await store.claim(10)
    await _expire(database)
    (new,) = await store.claim(10)
    await _expire(database)
    await store.renew([old.claim, Lease("gen_other", new.lease_token)])
    (row,) = await rows(database, "SELECT lease_until < now() AS has_ended FROM generation_requests")
    assert row == {"has_ended": True}


async def test_the_spool_is_emptied_with_the_end(database: Database) -> None:
    await _storing(database)
    store = _results(database)
    (claimed,) = await store.claim(10)
    await execute(database, "INSERT INTO output_spool VALUES (:id, 0, 'x')", id=claimed.id)
    assert await store.spooled(claimed.id, 0) == b"x"
    await store.end([StoreOutcome(claimed.id, claimed.lease_token, State.SUCCESS, outputs=[])])
    assert await store.spooled(claimed.id, 0) is None


async def test_a_task_of_a_provider_that_nobody_knows_is_taken_after_its_deadline(database: Database) -> None:
    await _tasks(database, 1)
    store = _polls(database)
    assert await store.claim_forgotten(10, known=["tuzi"]) == []
    await execute(database, "UPDATE poll_tasks SET deadline_at = now() - interval '1 s'")
    assert await store.claim_forgotten(10, known=["bfl"]) == []
    (task,) = await store.claim_forgotten(10, known=["tuzi"])
    assert task.seconds_left < 0


async def test_a_cancel_and_the_end_of_a_poll_do_not_wait_for_each_other_in_a_circle(database: Database) -> None:
    await _tasks(database, 1)
    (task,) = await _polls(database).claim({"bfl": 1})
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.engine.connect() as poll:
        # The first half of the end of a poll, which locks the task and then the generation.
        poll.execute(sa.text("UPDATE poll_tasks SET attempts = attempts + 1"))
        cancel = asyncio.create_task(CancelStore(database).request(task.generation_id))
        await eventually(lambda: rows(database, waiting), within=5, what="the cancel waits for the task")
        ended = "UPDATE generation_requests SET state = 'SUCCESS', outputs = '[]', ended_at = now()"
        await asyncio.to_thread(poll.execute, sa.text(ended))
        poll.commit()
    assert await cancel is None
