"""Law 3: a poller renews the leases of the claims that it holds, by id, and of no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import TaskStatus
from libs.common.catalog import CatalogHolder
from libs.common.database.engine import Database
from libs.common.database.records import Lease
from libs.common.database.records_dispatch import NewTask
from libs.common.database.records_tasks import ClaimedTask, PollOutcome
from libs.common.database.states import TaskState
from libs.common.database.stores.polling import PollStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.loops import Loop
from libs.common.rpc.wakeups import Wakeups
from libs.common.settings import Settings
from sandbox.plan import SHIPPED_CATALOG
from services.poller.asking import Asking
from services.poller.polling import Polling
from tests.support.away import LossyDatabase
from tests.support.rows import execute, new_generation, rows
from tests.support.waiting import eventually

LEASE_SECONDS = 1.0
FAILED = TaskStatus(TaskState.FAILED, error=GenerationError(ErrorCode.TASK_FAILED, "no"))


class Poller:
    """One poller process over a database, with one more task in hand that keeps it busy."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.store = PollStore(database, owner="busy", lease_seconds=LEASE_SECONDS)
        self.batches: list[str] = []
        catalog = CatalogHolder(SHIPPED_CATALOG)
        settings = settings.model_copy(update={"lease_seconds": LEASE_SECONDS})
        self.polling = Polling(
            self.store, catalog, Asking(Accounts(catalog)), settings, batches=Wakeups(self._wake, between_seconds=0)
        )

    async def _wake(self, batch_ids: Sequence[str]) -> None:
        self.batches += batch_ids

    async def take(self, task_id: str) -> Lease:
        """Claim a task."""
        task = await self.store.take("bfl", task_id)
        assert task is not None
        return task.claim

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[Lease]:
        """Work on a task, and renew leases, as long as this lasts."""
        claim = await self.take("in_hand")
        renewing = Loop("renew", self.polling.renew, interval_seconds=LEASE_SECONDS / 3)
        renewing.start()
        with self.polling.window.holding(claim):
            yield claim
        await renewing.stop()


@pytest.fixture
async def lossy(database_url: str) -> AsyncIterator[LossyDatabase]:
    found = LossyDatabase(database_url, size=4, statement_timeout_seconds=10, application_name="test")
    store = PollStore(found, owner="setup", lease_seconds=LEASE_SECONDS)
    for task_id in ("in_hand", "task"):
        await store.adopt(new_generation(), NewTask(task_id, "flux", None, "fixed", 60_000, 600))
    await execute(found, "UPDATE poll_tasks SET next_poll_at = now() - interval '1 s' WHERE task_id = 'task'")
    yield found
    await found.close()


async def _is_free_for_others(database: Database) -> None:
    """Whether another poller gets the task, and that one alone, once its lease has ended."""
    other = PollStore(database, owner="other", lease_seconds=30)
    found: list[ClaimedTask] = []

    async def claimed() -> bool:
        found.extend(await other.claim({"bfl": 10}))
        return bool(found)

    await eventually(claimed, within=3 * LEASE_SECONDS, what="the lease has ended")
    assert [task.task_id for task in found] == ["task"]
    assert await other.claim({"bfl": 10}) == []


async def test_claims_that_are_held_are_renewed_and_no_others(lossy: LossyDatabase, settings: Settings) -> None:
    poller = Poller(lossy, settings)
    held, _ = await poller.take("in_hand"), await poller.take("task")
    await execute(lossy, "UPDATE poll_tasks SET lease_until = 'epoch'")
    with poller.polling.window.holding(held):
        assert not await poller.polling.renew(), "the loop waits for its interval"
    assert await rows(lossy, "SELECT task_id FROM poll_tasks WHERE lease_until > 'epoch'") == [{"task_id": "in_hand"}]


async def test_a_wake_up_claims_before_the_interval_has_passed(lossy: LossyDatabase, settings: Settings) -> None:
    poller = Poller(lossy, settings)
    # Before its loop has started, a wake-up has no effect.
    poller.polling.wake()
    turns: list[bool] = []

    async def turn() -> bool:
        turns.append(True)
        return False

    async def turned() -> bool:
        return bool(turns)

    poller.polling.window.refill = loop = Loop("claim", turn, interval_seconds=600)
    loop.start()
    await eventually(turned, within=5, what="the loop begins")
    turns.clear()
    poller.polling.wake()
    await eventually(turned, within=5, what="the loop is woken")
    await loop.stop()
    assert turns == [True], "one wake-up is one iteration"


async def test_claim_whose_reply_was_lost_ends_though_the_poller_is_busy(
    lossy: LossyDatabase, settings: Settings
) -> None:
    poller = Poller(lossy, settings)
    async with poller.busy():
        lossy.loses = "claim_tasks"
        with pytest.raises(GenerationError):
            await poller.polling.claim()
        assert await rows(lossy, "SELECT 1 FROM poll_tasks WHERE task_id = 'task' AND lease_owner = 'busy'")
        await _is_free_for_others(lossy)


async def test_report_whose_claim_was_lost_leaves_the_task_to_its_lease(
    lossy: LossyDatabase, settings: Settings
) -> None:
    poller = Poller(lossy, settings)
    async with poller.busy():
        lossy.loses = "take_task"
        with pytest.raises(GenerationError):
            await poller.polling.report("bfl", "task", FAILED)
        await _is_free_for_others(lossy)


async def test_work_that_crashes_leaves_its_task_to_the_lease(lossy: LossyDatabase, settings: Settings) -> None:
    poller = Poller(lossy, settings)
    window = poller.polling.window

    async def crash() -> None:
        raise ValueError("broken")

    async def finish(found: None) -> None:
        raise AssertionError("nothing was found")

    async with poller.busy():
        assert window.room("bfl", 1)
        window.begin("bfl", await poller.take("task"), crash, finish)
        await _is_free_for_others(lossy)


async def test_older_claim_never_renews_a_newer_one(lossy: LossyDatabase, settings: Settings) -> None:
    store = Poller(lossy, settings).store
    old, new = await store.take("bfl", "task"), await store.take("bfl", "task")
    assert old is not None
    assert new is not None
    await execute(lossy, "UPDATE poll_tasks SET lease_until = now() - interval '1 s' WHERE task_id = 'task'")
    await store.renew([old.claim])
    await store.give_back([old.claim])
    (row,) = await rows(
        lossy, "SELECT lease_owner, lease_until < now() AS has_ended FROM poll_tasks WHERE task_id = 'task'"
    )
    assert row == {"lease_owner": "busy", "has_ended": True}
    await store.renew([old.claim, new.claim])
    assert await PollStore(lossy, owner="other", lease_seconds=30).claim({"bfl": 10}) == []


@contextmanager
def _locked(database: Database, sql: str) -> Iterator[None]:
    """Keep rows locked: writers of them wait."""
    with database.engine.begin() as connection:
        connection.execute(sa.text(sql))
        yield


async def _waits_for_a_lock(database: Database) -> None:
    sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    await eventually(lambda: rows(database, sql), within=5, what="a statement waits for the lock")


async def _has_failed(database: Database) -> bool:
    sql = "SELECT 1 FROM generation_requests g JOIN poll_tasks t ON t.generation_id = g.id WHERE task_id = 'task'"
    return bool(await rows(database, f"{sql} AND g.state = 'FAILED'"))


@pytest.mark.parametrize("table", ["poll_tasks", "generation_requests"])
async def test_report_is_written_although_its_caller_is_cancelled(
    lossy: LossyDatabase, settings: Settings, table: str
) -> None:
    poller = Poller(lossy, settings)
    with _locked(lossy, f"SELECT 1 FROM {table} FOR UPDATE"):
        report = asyncio.create_task(poller.polling.report("bfl", "task", FAILED))
        await _waits_for_a_lock(lossy)
        report.cancel()
        with pytest.raises(asyncio.CancelledError):
            await report
    await eventually(lambda: _has_failed(lossy), within=5, what="the report is written")


async def test_report_in_progress_at_a_stop_keeps_its_lease_until_it_is_written(
    lossy: LossyDatabase, settings: Settings
) -> None:
    poller = Poller(lossy, settings)
    with _locked(lossy, "SELECT 1 FROM generation_requests FOR UPDATE"):
        report = asyncio.create_task(poller.polling.report("bfl", "task", FAILED))
        await _waits_for_a_lock(lossy)
        drain = asyncio.create_task(poller.polling.drain())

        async def is_draining() -> bool:
            return poller.polling.window.is_draining

        await eventually(is_draining, within=5, what="the poller drains")
    assert await report
    await drain
    assert await _has_failed(lossy)


async def test_end_whose_reply_was_lost_is_counted_once_and_wakes_its_batch(
    lossy: LossyDatabase, settings: Settings
) -> None:
    poller = Poller(lossy, settings)
    await execute(lossy, "UPDATE generation_requests SET batch_id = 'batch_1', batch_index = 0")
    labels = {"model": "flux-pro", "provider": "bfl", "state": "FAILED", "code": "TASK_FAILED"}

    def ended() -> float:
        return REGISTRY.get_sample_value("darkroom_generations_ended_total", labels) or 0.0

    before = ended()
    lossy.loses = "end_polls"
    assert await poller.polling.report("bfl", "task", FAILED)
    assert ended() - before == 1
    assert not await poller.polling.report("bfl", "task", FAILED)

    async def is_woken() -> bool:
        return poller.batches == ["batch_1"]

    await eventually(is_woken, within=5, what="the batch is woken")
    assert ended() - before == 1


async def test_polls_that_go_on_are_recognised_too(lossy: LossyDatabase, settings: Settings) -> None:
    poller = Poller(lossy, settings)
    task = await poller.store.take("bfl", "task")
    assert task is not None
    outcome = PollOutcome(*task.lease, TaskState.PROCESSING, progress=10)
    first = await poller.store.end([outcome])
    assert await poller.store.end([outcome]) == first
    (row,) = await rows(lossy, "SELECT attempts FROM poll_tasks WHERE task_id = 'task'")
    assert row == {"attempts": 1}
