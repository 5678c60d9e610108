"""What the stores of batches do when many do it at once, and where accounts are full."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.database.records_dispatch import ClaimedGeneration, DispatchOutcome, Grant
from libs.common.database.states import BatchStatus, State
from libs.common.database.stores.batch_progress import BatchProgressStore
from libs.common.database.stores.batches import BatchStore
from libs.common.database.stores.resuming import LeftOut, Resumed, ResumeStore
from libs.common.database.stores.submissions import Decision, SubmissionStore
from libs.common.errors import GenerationError
from libs.common.ids import new_id
from tests.support.batches import PROVIDERS, admit_all, batch, counters, counters_of, look_after, open_batch, tasks
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, rows

BFL, OPENAI = PROVIDERS
OUTPUTS = [{"type": "image", "url": "https://example.com/1.png"}]
ERROR: dict[str, Any] = {"code": "TASK_FAILED", "message": "no", "details": {}, "is_retryable": False}
# Makes the generation that stores the late result of :id.
LATE = """
INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, number_of_outputs,
    when_uncertain, request_id, continues_id, is_late, provider_task_id)
SELECT 'gen_zz', 'PROCESSING', model_identifier, provider_id, media_type, prompt, 1, 'fail', 'r', id, true, 't'
FROM generation_requests WHERE id = :id"""


def _outcome(generation: ClaimedGeneration, *, fails: bool = False) -> DispatchOutcome:
    state, facts = (State.FAILED, {"error": ERROR}) if fails else (State.SUCCESS, {"outputs": OUTPUTS})
    return DispatchOutcome(generation.id, generation.lease_token, state, **facts)


async def _claim(dispatcher: Dispatcher, places: int, providers: Sequence[str] = PROVIDERS) -> list[ClaimedGeneration]:
    return await dispatcher.claims.claim(providers, lambda account: Grant(account, places))


async def _stand(database: Database, provider_id: str) -> None:
    """Let what waits for an account have waited for long."""
    sql = "UPDATE generation_requests SET released_at = now() - interval '5 seconds' WHERE provider_id = :provider_id"
    await execute(database, sql, provider_id=provider_id)


async def _pending(database: Database) -> list[tuple[str, int]]:
    found = await rows(
        database, "SELECT provider_id, batch_index FROM generation_requests WHERE state = 'PENDING' ORDER BY 2"
    )
    return [(row["provider_id"], row["batch_index"]) for row in found]


async def test_many_ends_at_once_give_each_place_to_one(database: Database) -> None:
    batch_id = await open_batch(database, 300, max_concurrency=20, providers=PROVIDERS)
    dispatcher, most = Dispatcher(database, lease_seconds=100), 0
    keeper = BatchProgressStore(database)

    async def one(generation: ClaimedGeneration) -> None:
        await dispatcher.end([_outcome(generation, fails=generation.id.endswith("7"))])

    while (await batch(database, batch_id)).status is BatchStatus.PROCESSING:
        claimed = await _claim(dispatcher, 20)
        looking = keeper.look_after(PROVIDERS, patience_seconds=1_000)
        await asyncio.gather(looking, *(one(generation) for generation in claimed))
        (row,) = await rows(
            database, "SELECT count(*) AS released FROM generation_requests WHERE state IN ('PENDING', 'DISPATCHING')"
        )
        most = max(most, row["released"])
    assert most == 20
    record, found = await batch(database, batch_id), await tasks(database, batch_id)
    assert counters_of(record) == counters(found)
    await look_after(database)
    (row,) = await rows(database, "SELECT ended_at IS NOT NULL AS is_closed FROM generation_batches")
    assert row["is_closed"]


async def test_two_who_resume_at_once_continue_each_generation_once(database: Database) -> None:
    batch_id = await open_batch(database, 20, max_concurrency=20)
    dispatcher, store = Dispatcher(database), ResumeStore(database, admit_all)
    await dispatcher.end([_outcome(generation, fails=True) for generation in await _claim(dispatcher, 20)])
    resumed = await asyncio.gather(
        *(store.resume(batch_id, [], owner=None, new_id=lambda: new_id("gen")) for _ in range(3))
    )
    assert sorted(each.tasks for each in resumed if each is not None) == [0, 0, 20]
    assert counters_of(await batch(database, batch_id)) == counters(await tasks(database, batch_id))


def _resume(database: Database, batch_id: str, **consent: float) -> Awaitable[Resumed | None]:
    store = ResumeStore(database, admit_all)
    return store.resume(batch_id, [], owner=None, new_id=lambda: new_id("gen"), **consent)


async def test_what_may_have_been_paid_for_is_not_run_again(database: Database) -> None:
    batch_id = await open_batch(database, 2, max_concurrency=2)
    dispatcher = Dispatcher(database)
    uncertain, failed = await _claim(dispatcher, 2)
    await dispatcher.end([_outcome(uncertain, fails=True), _outcome(failed, fails=True)])
    sql = """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
        VALUES ('sub_1', :id, 1, 'bfl', 'UNCERTAIN', now())"""
    await execute(database, sql, id=uncertain.id)
    assert await _resume(database, batch_id) == Resumed(1, LeftOut(1, 0.0))
    assert [row["continues_id"] for row in await tasks(database, batch_id)] == [None, failed.id]
    await execute(database, "UPDATE submissions SET resolution = 'DISMISSED', resolved_at = now()")
    assert await _resume(database, batch_id) == Resumed(1, LeftOut())


@pytest.mark.parametrize("open_because", ["uncertain", "at risk"])
async def test_a_second_payment_is_made_only_with_consent_to_its_price(database: Database, open_because: str) -> None:
    batch_id = await open_batch(
        database, 3, max_concurrency=3, fields={"expected_cost_usd": 0.05, "reserved_usd": 0.08}
    )
    dispatcher = Dispatcher(database)
    claimed = await _claim(dispatcher, 3)
    await dispatcher.end([_outcome(generation, fails=True) for generation in claimed])
    state, at_risk = ("UNCERTAIN", 0.0) if open_because == "uncertain" else ("ACCEPTED", 0.05)
    sql = """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, at_risk_usd, ended_at)
        VALUES (:submission_id, :id, 1, 'bfl', :state, :at_risk, now())"""
    for number, generation in enumerate(claimed[:2]):
        await execute(database, sql, submission_id=f"sub_{number}", id=generation.id, state=state, at_risk=at_risk)
    with pytest.raises(GenerationError, match=r"accepted_second_payment_usd: must be at least \$0\.16") as refused:
        await _resume(database, batch_id, accepted_usd=0.159999)
    assert [violation.field for violation in refused.value.violations] == ["accepted_second_payment_usd"]
    assert refused.value.details["price_usd"] == 0.16
    listed = [entry["submission_id"] for entry in refused.value.details["submissions"]]
    assert listed == ["sub_0", "sub_1"]
    assert not [row for row in await tasks(database, batch_id) if row["continues_id"]], "a refusal changes nothing"
    left_out = await ResumeStore(database, admit_all).left_out(batch_id)
    assert (left_out.tasks, round(left_out.price_usd, 6)) == (2, 0.16)
    assert await _resume(database, batch_id, accepted_usd=0.16) == Resumed(3, LeftOut())


async def test_a_resume_and_a_resolution_at_once_continue_a_generation_once(database: Database) -> None:
    for number in range(8):
        batch_id = await open_batch(database, 1, max_concurrency=1)
        dispatcher = Dispatcher(database)
        (uncertain,) = await _claim(dispatcher, 1)
        await dispatcher.end([_outcome(uncertain, fails=True)])
        sql = """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
            VALUES (:submission_id, :id, 1, 'bfl', 'UNCERTAIN', now())"""
        await execute(database, sql, submission_id=f"sub_{number}", id=uncertain.id)
        resubmitted = Decision("RESUBMITTED", billing="NOT_BILLED")
        await asyncio.gather(
            _resume(database, batch_id, accepted_usd=1.0),
            SubmissionStore(database).resolve(f"sub_{number}", resubmitted, new_id=new_id("gen")),
            return_exceptions=True,
        )
        sql = "SELECT count(*) AS made FROM generation_requests WHERE continues_id = :id"
        (row,) = await rows(database, sql, id=uncertain.id)
        assert row["made"] == 1
        assert counters_of(await batch(database, batch_id)) == counters(await tasks(database, batch_id))
        for state in ("HELD", "PENDING"):
            cancelled = "UPDATE generation_requests SET state = 'CANCELLED', ended_at = now() WHERE state = :state"
            await execute(database, cancelled, state=state)


async def test_a_batch_whose_counters_take_no_change_holds_up_no_other(database: Database) -> None:
    broken = await open_batch(database, 1, max_concurrency=1)
    sound = await open_batch(database, 1, max_concurrency=1)
    await execute(
        database,
        """INSERT INTO batch_ledger (batch_id, batch_index, completed_tasks, failed_tasks, cancelled_tasks,
            skipped_tasks, cost_usd) VALUES (:id, 0, 0, -5, 0, 0, 0)""",
        id=broken,
    )
    dispatcher = Dispatcher(database)
    await dispatcher.end([_outcome(generation) for generation in await _claim(dispatcher, 2)])
    await look_after(database)
    assert (await batch(database, sound)).status is BatchStatus.COMPLETED


async def test_what_depends_on_one_whose_result_came_late_is_skipped(database: Database) -> None:
    batch_id = await open_batch(database, 2, needs={1: [0]})
    dispatcher = Dispatcher(database)
    (timed_out,) = await _claim(dispatcher, 1)
    await dispatcher.end([_outcome(timed_out, fails=True)])
    await execute(database, LATE, id=timed_out.id)
    await look_after(database)
    assert (await batch(database, batch_id)).skipped_tasks == 1


async def test_a_generation_whose_result_came_late_is_resumed_only_with_consent(database: Database) -> None:
    batch_id = await open_batch(database, 1, max_concurrency=1, fields={"expected_cost_usd": 0.05})
    dispatcher = Dispatcher(database)
    (timed_out,) = await _claim(dispatcher, 1)
    await dispatcher.end([_outcome(timed_out, fails=True)])
    await execute(database, LATE, id=timed_out.id)
    assert await _resume(database, batch_id) == Resumed(0, LeftOut(1, 0.05))
    with pytest.raises(GenerationError, match="Its result came late and is stored by another generation"):
        await _resume(database, batch_id, accepted_usd=0.01)
    assert await _resume(database, batch_id, accepted_usd=0.05) == Resumed(1, LeftOut())


async def test_a_full_account_does_not_bar_the_others(database: Database) -> None:
    """All of the first half is for an account that takes nothing: its places go to the other half, but for one."""
    await open_batch(database, 8, max_concurrency=3, providers=(BFL, OPENAI))
    assert [provider for provider, _ in await _pending(database)].count(BFL) == 2
    dispatcher = Dispatcher(database)
    await dispatcher.end([_outcome(generation) for generation in await _claim(dispatcher, 5, [OPENAI])])
    await _stand(database, BFL)
    turn = await look_after(database, patience_seconds=1.0)
    assert turn.made_way == 1
    assert [provider for provider, _ in await _pending(database)].count(OPENAI) == 2
    (held,) = await rows(database, "SELECT count(*) AS held FROM generation_requests WHERE state = 'HELD'")
    assert held["held"] == 8 - 1 - 3


async def test_where_all_places_stand_at_a_full_account_one_of_them_moves_all_the_same(database: Database) -> None:
    await open_batch(database, 4, max_concurrency=1, providers=(BFL, OPENAI))
    assert await _pending(database) == [(BFL, 0)]
    await _stand(database, BFL)
    await look_after(database, patience_seconds=1.0)
    assert await _pending(database) == [(OPENAI, 1)]


@pytest.mark.parametrize("state", ["STARTED", "UNCERTAIN"])
async def test_what_may_have_been_submitted_does_not_make_way(database: Database, state: str) -> None:
    await open_batch(database, 4, max_concurrency=1, providers=(BFL, OPENAI))
    attempt = """INSERT INTO submissions (id, generation_id, attempt, provider_id, state, ended_at)
        SELECT 'sub_1', id, 1, provider_id, :state, CASE WHEN :state <> 'STARTED' THEN now() END
        FROM generation_requests WHERE state = 'PENDING'"""
    await execute(database, attempt, state=state)
    await _stand(database, BFL)
    assert (await look_after(database, patience_seconds=1.0)).made_way == 0
    assert await _pending(database) == [(BFL, 0)]


async def test_where_order_is_strict_nothing_makes_way(database: Database) -> None:
    await open_batch(database, 4, max_concurrency=1, is_parallel=False, providers=(BFL, OPENAI))
    await _stand(database, BFL)
    await look_after(database, patience_seconds=1.0)
    assert await _pending(database) == [(BFL, 0)]


async def test_places_go_round_the_accounts(database: Database) -> None:
    await open_batch(database, 9, max_concurrency=4, providers=(BFL, BFL, OPENAI))
    assert sorted(await _pending(database)) == [(BFL, 0), (BFL, 1), (OPENAI, 2), (OPENAI, 5)]


async def test_priority_holds_across_batches_and_begins_with_the_release(database: Database) -> None:
    await open_batch(database, 2, max_concurrency=1, fields={"priority": 0})
    await open_batch(database, 2, max_concurrency=1, fields={"priority": 9})
    (first,) = await _claim(Dispatcher(database), 1, [BFL])
    found = await rows(database, "SELECT priority FROM generation_requests WHERE id = :id", id=first.id)
    assert found == [{"priority": 9}]


async def test_one_look_counts_a_thousand_ends(database: Database) -> None:
    dispatcher = Dispatcher(database, lease_seconds=100)
    await open_batch(database, 1_000, max_concurrency=1_000)
    await dispatcher.end([_outcome(generation) for generation in await _claim(dispatcher, 1_000)])
    turn = await BatchProgressStore(database).look_after(PROVIDERS, patience_seconds=1_000)
    assert turn.folded == 1_000


async def test_nothing_is_left_of_a_batch_that_was_not_opened(database: Database) -> None:
    store = BatchStore(database, admit_all)
    await store.put("batch_x", 0, b"[]")
    await execute(database, "UPDATE batch_uploads SET created_at = now() - interval '3 hours'")
    await store.put("batch_y", 0, b"[]")
    await BatchProgressStore(database).forget()
    assert [row["batch_id"] for row in await rows(database, "SELECT batch_id FROM batch_uploads")] == ["batch_y"]
