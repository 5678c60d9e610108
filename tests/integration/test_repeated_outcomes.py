"""Outcomes whose commit got no reply are written again, and answered as the first time; those of others are not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import Attempt, ClaimedGeneration, DispatchOutcome, NewTask
from libs.common.database.records_tasks import ClaimedResult, PollOutcome, StoreOutcome
from libs.common.database.states import State, SubmissionState, TaskState
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.polling import PollStore
from libs.common.database.stores.storing import ResultStore
from libs.common.retry import until_database_answers
from tests.support.away import LossyDatabase
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, insert, new_generation, rows

Outcome = TypeVar("Outcome")
Written = TypeVar("Written")
OUTPUTS: list[dict[str, Any]] = [{"type": "image", "url": "https://example.com/1.png"}]
ERROR: dict[str, Any] = {"code": "TASK_FAILED", "message": "no", "details": {}, "is_retryable": False}


@pytest.fixture
async def lossy(database_url: str) -> AsyncIterator[LossyDatabase]:
    found = LossyDatabase(database_url, size=2, statement_timeout_seconds=10, application_name="test")
    yield found
    await found.close()


async def _written(
    database: LossyDatabase,
    loses: str,
    end: Callable[[Sequence[Outcome]], Awaitable[Sequence[Written]]],
    outcome: Outcome,
) -> Written:
    """Write an outcome as services do; the reply to the first commit is lost."""
    database.loses = loses
    (written,) = await until_database_answers(lambda: end([outcome]))
    assert database.loses is None
    return written


async def _sent(database: Database, store: Dispatcher) -> ClaimedGeneration:
    await insert(database, [new_generation(expected_cost_usd=1.0)])
    (claimed,) = await store.claim(10)
    assert await store.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)]) == [True]
    return claimed


def _outcome(claimed: ClaimedGeneration, state: State, submission_state: SubmissionState) -> DispatchOutcome:
    facts: dict[State, dict[str, Any]] = {
        State.FAILED: {"error": ERROR},
        State.CANCELLED: {"error": ERROR},
        State.PENDING: {"error": ERROR},
        State.SUCCESS: {"outputs": OUTPUTS},
        State.STORING: {"sources": OUTPUTS},
        State.PROCESSING: {"task": NewTask("task_1", "flux", None, "fixed", 100, 60)},
    }
    return DispatchOutcome(
        claimed.id,
        claimed.lease_token,
        state,
        provider_id="bfl",
        claimed_cost_usd=claimed.expected_cost_usd,
        submission_id="sub_1",
        submission_state=submission_state,
        **facts[state],
    )


ENDS = [
    (State.PROCESSING, SubmissionState.ACCEPTED),
    (State.SUCCESS, SubmissionState.COMPLETED),
    (State.STORING, SubmissionState.COMPLETED),
    (State.FAILED, SubmissionState.UNCERTAIN),
    (State.PENDING, SubmissionState.NOT_ACCEPTED),
]


@pytest.mark.parametrize(("state", "submission_state"), ENDS)
async def test_outcome_of_a_submit_is_answered_as_the_first_time(
    lossy: LossyDatabase, state: State, submission_state: SubmissionState
) -> None:
    store = Dispatcher(lossy)
    outcome = _outcome(await _sent(lossy, store), state, submission_state)
    assert await _written(lossy, "end_dispatches", store.end, outcome) is state
    (row,) = await rows(lossy, "SELECT spend_usd FROM provider_accounts")
    assert row["spend_usd"] == (0.0 if submission_state is SubmissionState.NOT_ACCEPTED else 1.0)


@pytest.mark.parametrize(("state", "submission_state"), ENDS)
async def test_outcome_that_met_a_cancel_is_answered_as_the_first_time(
    lossy: LossyDatabase, state: State, submission_state: SubmissionState
) -> None:
    store = Dispatcher(lossy)
    claimed = await _sent(lossy, store)
    assert await CancelStore(lossy).request(claimed.id) is State.DISPATCHING
    stays = state in {State.PROCESSING, State.FAILED}
    written = await _written(lossy, "end_dispatches", store.end, _outcome(claimed, state, submission_state))
    assert written is (state if stays else State.CANCELLED)


async def test_end_that_somebody_else_wrote_is_not_taken_for_ones_own(lossy: LossyDatabase) -> None:
    sleeper, rescuer = Dispatcher(lossy, owner="sleeper"), Dispatcher(lossy, owner="rescuer")
    claimed = await _sent(lossy, sleeper)
    await execute(lossy, "UPDATE generation_requests SET lease_until = now() - interval '1 s'")
    (taken,) = await rescuer.claims.rescue(10, held=[])
    assert await rescuer.end([_outcome(taken, State.FAILED, SubmissionState.UNCERTAIN)]) == [State.FAILED]
    assert await sleeper.end([_outcome(claimed, State.FAILED, SubmissionState.UNCERTAIN)]) == [None]


async def test_cancel_of_what_was_put_back_is_not_taken_for_ones_own(lossy: LossyDatabase) -> None:
    store = Dispatcher(lossy)
    outcome = _outcome(await _sent(lossy, store), State.PENDING, SubmissionState.NOT_ACCEPTED)
    assert await store.end([outcome]) == [State.PENDING]
    assert await CancelStore(lossy).request(outcome.generation_id) is State.CANCELLED
    assert await store.end([outcome]) == [None]


async def test_task_handed_over_and_cancelled_by_a_poller_is_not_counted_by_the_dispatcher(
    lossy: LossyDatabase,
) -> None:
    store, polls = Dispatcher(lossy), PollStore(lossy, owner="poller", lease_seconds=30)
    claimed = await _sent(lossy, store)
    await CancelStore(lossy).request(claimed.id)
    outcome = _outcome(claimed, State.PROCESSING, SubmissionState.ACCEPTED)
    assert await store.end([outcome]) == [State.PROCESSING]
    (task,) = await polls.claim({"bfl": 1})
    ended = PollOutcome(*task.lease, TaskState.CANCELLED, error=ERROR, generation_state=State.CANCELLED)
    assert await polls.end([ended]) == [State.CANCELLED]
    assert await store.end([outcome]) == [None]


async def _stored(database: Database) -> ClaimedResult:
    store = Dispatcher(database)
    await store.end([_outcome(await _sent(database, store), State.STORING, SubmissionState.COMPLETED)])
    (result,) = await ResultStore(database, owner="poller", lease_seconds=30).claim(1)
    return result


@pytest.mark.parametrize("state", [State.SUCCESS, State.FAILED, State.STORING])
async def test_stored_result_is_answered_as_the_first_time(lossy: LossyDatabase, state: State) -> None:
    store = ResultStore(lossy, owner="poller", lease_seconds=30)
    result = await _stored(lossy)
    facts = {"outputs": OUTPUTS} if state is State.SUCCESS else {"error": ERROR}
    outcome = StoreOutcome(result.id, result.lease_token, state, **facts)
    assert await _written(lossy, "end_results", store.end, outcome)


@pytest.mark.parametrize("state", [State.SUCCESS, State.STORING, State.FAILED])
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_end_of_a_task_is_answered_as_the_first_time(
    lossy: LossyDatabase, state: State, is_cancelled: bool
) -> None:
    store = Dispatcher(lossy)
    polls = PollStore(lossy, owner="poller", lease_seconds=30)
    claimed = await _sent(lossy, store)
    await store.end([_outcome(claimed, State.PROCESSING, SubmissionState.ACCEPTED)])
    task = await polls.take("bfl", "task_1")
    assert task is not None
    if is_cancelled:
        await CancelStore(lossy).request(claimed.id)
    facts = {State.SUCCESS: {"outputs": OUTPUTS}, State.STORING: {"sources": OUTPUTS}}.get(state, {"error": ERROR})
    outcome = PollOutcome(*task.lease, TaskState.SUCCESS, generation_state=state, **facts)
    expected = State.CANCELLED if is_cancelled and state is not State.FAILED else state
    assert await _written(lossy, "end_polls", polls.end, outcome) is expected


async def test_end_of_a_task_is_recognised_after_its_result_was_stored(lossy: LossyDatabase) -> None:
    store, polls = Dispatcher(lossy), PollStore(lossy, owner="poller", lease_seconds=30)
    results = ResultStore(lossy, owner="storer", lease_seconds=30)
    await store.end([_outcome(await _sent(lossy, store), State.PROCESSING, SubmissionState.ACCEPTED)])
    task = await polls.take("bfl", "task_1")
    assert task is not None
    outcome = PollOutcome(*task.lease, TaskState.SUCCESS, generation_state=State.STORING, sources=OUTPUTS)
    assert await polls.end([outcome]) == [State.STORING]
    (result,) = await results.claim(1)
    assert await results.end([StoreOutcome(result.id, result.lease_token, State.SUCCESS, outputs=OUTPUTS)]) == [True]
    # Its success is counted by the process that stored it.
    assert await polls.end([outcome]) == [State.STORING]


@pytest.mark.parametrize(
    ("facts", "spend_usd"),
    [
        ({"is_answered": True}, 0.0),
        ({"is_answered": True, "generation_state": State.CANCELLED, "state": TaskState.CANCELLED}, 0.0),
        ({"is_answered": True, "cost_usd": 0.5}, 1.0),
        ({"is_at_risk": True}, 1.0),
    ],
)
async def test_daily_limit_of_an_account_counts_no_task_that_the_provider_reports_as_failed(
    lossy: LossyDatabase, facts: dict[str, Any], spend_usd: float
) -> None:
    store = Dispatcher(lossy)
    outcome = _outcome(await _sent(lossy, store), State.PROCESSING, SubmissionState.ACCEPTED)
    assert await store.end([outcome]) == [State.PROCESSING]
    await execute(lossy, "UPDATE poll_tasks SET next_poll_at = now()")
    polls = PollStore(lossy, owner="poller", lease_seconds=30)
    (task,) = await polls.claim({"bfl": 1})
    ended: dict[str, Any] = {"state": TaskState.FAILED, "generation_state": State.FAILED, "error": ERROR, **facts}
    # The repeat after the lost reply gives nothing back a second time.
    assert await _written(lossy, "end_polls", polls.end, PollOutcome(*task.lease, **ended)) is ended["generation_state"]
    assert await rows(lossy, "SELECT spend_usd FROM provider_accounts") == [{"spend_usd": spend_usd}]


async def test_failed_task_of_another_backend_gives_the_account_nothing_back(lossy: LossyDatabase) -> None:
    await _sent(lossy, Dispatcher(lossy))
    polls = PollStore(lossy, owner="poller", lease_seconds=30)
    await polls.adopt(new_generation(expected_cost_usd=0.4), NewTask("adopted", "flux", None, "fixed", 100, 60))
    await execute(lossy, "UPDATE poll_tasks SET next_poll_at = now()")
    (task,) = await polls.claim({"bfl": 1})
    failed = PollOutcome(*task.lease, TaskState.FAILED, generation_state=State.FAILED, error=ERROR, is_answered=True)
    assert await polls.end([failed]) == [State.FAILED]
    assert await rows(lossy, "SELECT spend_usd FROM provider_accounts") == [{"spend_usd": 1.0}]
