"""Claims, attempts and outcomes of dispatchers, on a real Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from sqlalchemy.exc import IntegrityError

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import Attempt, ClaimedGeneration, DispatchOutcome, NewTask
from libs.common.database.states import IllegalTransition, State, SubmissionState
from libs.common.database.stores.cancelling import cancel_all
from libs.common.database.stores.polling import PollStore
from libs.common.ids import new_id
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, insert, new_generation, rows

TASK = NewTask("task_1", "flux", None, "fixed", 100, 60)


def _store(database: Database, owner: str = "one") -> Dispatcher:
    return Dispatcher(database, owner=owner)


async def _claim_one(database: Database, store: Dispatcher) -> ClaimedGeneration:
    await insert(database, [new_generation()])
    (claimed,) = await store.claim(10)
    return claimed


async def _expire(database: Database) -> None:
    await execute(database, "UPDATE generation_requests SET lease_until = now() - interval '1 s'")


def _accepted(claimed: ClaimedGeneration, submission_id: str | None = None) -> DispatchOutcome:
    return DispatchOutcome(
        claimed.id,
        claimed.lease_token,
        State.PROCESSING,
        submission_id=submission_id,
        submission_state=SubmissionState.ACCEPTED,
        task=TASK,
    )


async def test_concurrent_claims_share_the_rows_without_overlap(database: Database) -> None:
    await insert(database, [new_generation() for _ in range(60)])
    stores = [_store(database, f"owner-{number}") for number in range(4)]

    claimed = await asyncio.gather(*(store.claim(20) for store in stores))

    ids = Counter(generation.id for group in claimed for generation in group)
    assert len(ids) == 60
    assert set(ids.values()) == {1}


async def test_higher_priority_goes_first_then_age(database: Database) -> None:
    generations = [
        new_generation(id=f"gen_{name}", priority=priority) for name, priority in (("a", 1), ("b", 9), ("c", 5))
    ]
    for generation in generations:
        await insert(database, [generation])
    store = _store(database)
    order = [(await store.claim(1))[0].id for _ in generations]
    assert order == ["gen_b", "gen_c", "gen_a"]


async def test_no_more_are_at_the_provider_than_its_account_may_have(database: Database) -> None:
    await insert(database, [new_generation() for _ in range(20)])
    stores = [_store(database, f"owner-{number}") for number in range(4)]

    claimed = await asyncio.gather(*(store.claim(20, 7) for store in stores))

    assert sum(map(len, claimed)) == 7


async def test_a_task_at_the_provider_keeps_its_place(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    await store.end([_accepted(claimed)])
    await insert(database, [new_generation()])
    assert await store.claim(10, 1) == []
    assert len(await store.claim(10, 2)) == 1


async def test_other_providers_are_left_alone(database: Database) -> None:
    await insert(database, [new_generation(provider_id="tuzi")])
    assert await _store(database).claim(10) == []


async def test_a_row_put_back_waits_for_its_time(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    later = DispatchOutcome(claimed.id, claimed.lease_token, State.PENDING, delay_seconds=3_600)
    assert await store.end([later]) == [State.PENDING]
    assert await store.claim(10) == []


async def test_the_hand_over_is_one_change(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    assert await store.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)]) == [True]

    assert await store.end([_accepted(claimed, "sub_1")]) == [State.PROCESSING]

    (generation,) = await rows(database, "SELECT state, provider_task_id, attempts FROM generation_requests")
    assert generation == {"state": "PROCESSING", "provider_task_id": "task_1", "attempts": 1}
    (task,) = await rows(database, "SELECT task_id, generation_id, strategy FROM poll_tasks")
    assert task == {"task_id": "task_1", "generation_id": claimed.id, "strategy": "fixed"}
    (submission,) = await rows(database, "SELECT state, attempt, provider_task_id FROM submissions")
    assert submission == {"state": "ACCEPTED", "attempt": 1, "provider_task_id": "task_1"}


async def test_a_task_id_that_another_generation_has_changes_nothing(database: Database) -> None:
    store = _store(database)
    first = await _claim_one(database, store)
    await store.end([_accepted(first)])
    second = await _claim_one(database, store)
    with pytest.raises(IntegrityError):
        await store.end([_accepted(second)])
    (row,) = await rows(database, "SELECT state FROM generation_requests WHERE id = :id", id=second.id)
    assert row["state"] == "DISPATCHING"


async def test_a_holder_that_lost_its_lease_can_neither_send_nor_write(database: Database) -> None:
    sleeper, rescuer = _store(database, "sleeper"), _store(database, "rescuer")
    claimed = await _claim_one(database, sleeper)
    await _expire(database)
    (taken,) = await rescuer.claims.rescue(10, held=[])
    assert (taken.id, taken.lease_token) == (claimed.id, claimed.lease_token + 1)

    assert await sleeper.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)]) == [False]
    assert await sleeper.end([_accepted(claimed)]) == [None]
    assert await sleeper.claims.renew([claimed.claim]) == []
    await sleeper.claims.give_back([claimed.claim])

    (row,) = await rows(database, "SELECT state, lease_owner, attempts FROM generation_requests")
    assert row == {"state": "DISPATCHING", "lease_owner": "rescuer", "attempts": 0}
    assert await rows(database, "SELECT * FROM poll_tasks") == []


async def test_the_same_owner_with_an_older_claim_is_fenced_too(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    await _expire(database)
    (taken,) = await store.claims.rescue(10, held=[])
    assert await store.end([_accepted(claimed)]) == [None]
    await _expire(database)
    await store.claims.give_back([claimed.claim])
    assert await store.claims.renew([claimed.claim, taken.claim]) == [taken.claim]


async def test_older_claim_of_the_same_owner_never_renews_a_newer_one(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    await _expire(database)
    await store.claims.rescue(10, held=[])
    await _expire(database)
    assert await store.claims.renew([claimed.claim]) == []
    assert len(await _store(database, "other").claims.rescue(10, held=[])) == 1


async def test_a_cancel_of_many_names_those_that_a_dispatcher_holds(database: Database) -> None:
    await insert(database, [new_generation(id=new_id("gen")) for _ in range(2)])
    await PollStore(database, owner="one", lease_seconds=30).adopt(
        new_generation(id=new_id("gen")), NewTask("task", "flux", None, "fixed", 100, 60)
    )
    (claimed,) = await Dispatcher(database).claim(1)
    ids = [row["id"] for row in await rows(database, "SELECT id FROM generation_requests")]
    assert len(ids) == 3
    assert await database.transaction("cancel", lambda c: cancel_all(c, ids)) == [claimed.id]


async def test_a_rescuer_learns_of_an_attempt_without_an_outcome(database: Database) -> None:
    dead, rescuer = _store(database, "dead"), _store(database, "rescuer")
    claimed = await _claim_one(database, dead)
    await dead.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)])
    await _expire(database)
    await execute(database, "UPDATE submissions SET started_at = started_at - interval '100 s'")
    assert await rescuer.claims.rescue(10, held=[], full=["bfl"]) == []
    (taken,) = await rescuer.claims.rescue(10, held=[], full=["tuzi"])
    assert (taken.open_submission_id, taken.attempts) == ("sub_1", 1)
    assert taken.open_submission_age_seconds == pytest.approx(100, abs=10)


async def test_a_live_lease_is_not_rescued_nor_what_is_held_here(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    assert await store.claims.rescue(10, held=[]) == []
    await _expire(database)
    assert await store.claims.rescue(10, held=[claimed.id]) == []


async def test_giving_back_frees_what_was_not_sent_and_keeps_what_was(database: Database) -> None:
    store = _store(database)
    sent = await _claim_one(database, store)
    await store.record_attempts([Attempt("sub_1", sent.id, sent.lease_token)])
    unsent = await _claim_one(database, store)

    await store.claims.give_back([sent.claim, unsent.claim])

    states = {row["id"]: row["state"] for row in await rows(database, "SELECT id, state FROM generation_requests")}
    assert states == {sent.id: "DISPATCHING", unsent.id: "PENDING"}


async def test_outputs_that_wait_for_storage_are_kept_with_the_outcome(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    outcome = DispatchOutcome(
        claimed.id, claimed.lease_token, State.STORING, sources=[{"spooled": 0}, {"spooled": 1}], spool=(b"one", b"two")
    )
    await store.end([outcome])
    spooled = await rows(database, "SELECT output_index, content FROM output_spool ORDER BY 1")
    assert [(row["output_index"], bytes(row["content"])) for row in spooled] == [(0, b"one"), (1, b"two")]


async def test_an_illegal_end_raises_before_anything_is_written(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    with pytest.raises(IllegalTransition):
        await store.end([DispatchOutcome(claimed.id, claimed.lease_token, State.HELD)])


async def test_a_failure_without_a_reason_is_refused_by_the_database_itself(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    with pytest.raises(IntegrityError, match="failed_with_reason"):
        await store.end([DispatchOutcome(claimed.id, claimed.lease_token, State.FAILED)])


async def test_the_queue_counts_by_provider_and_state(database: Database) -> None:
    store = _store(database)
    await _claim_one(database, store)
    await insert(database, [new_generation(), new_generation(provider_id="tuzi")])
    queue = {record.provider_id: record for record in await store.outcomes.queue()}
    assert (queue["bfl"].pending, queue["bfl"].dispatching, queue["tuzi"].pending) == (1, 1, 1)
    assert queue["bfl"].oldest_pending_at is not None


async def test_what_waits_for_a_provider_that_nobody_knows_is_taken_in_the_end(database: Database) -> None:
    store = _store(database)
    await insert(database, [new_generation(provider_id="gone"), new_generation()])
    assert await store.claims.claim_forgotten(10, known=["bfl"], patience_seconds=600) == []
    await execute(database, "UPDATE generation_requests SET released_at = now() - interval '11 min'")
    (claimed,) = await store.claims.claim_forgotten(10, known=["bfl"], patience_seconds=600)
    assert claimed.provider_id == "gone"


async def test_the_database_takes_no_second_attempt_while_the_first_is_open(database: Database) -> None:
    store = _store(database)
    claimed = await _claim_one(database, store)
    await store.record_attempts([Attempt("sub_1", claimed.id, claimed.lease_token)])
    with pytest.raises(IntegrityError, match=r"Key \(generation_id\)="):
        await store.record_attempts([Attempt("sub_2", claimed.id, claimed.lease_token)])
