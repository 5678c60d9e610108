"""Large tables by month: made ahead, looked into no wider than need be, and forgotten by dropping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url

from libs.common.database.engine import Database
from libs.common.database.partitioning import TABLES, month_of
from libs.common.database.records import Lease
from libs.common.database.records_dispatch import Attempt, DispatchOutcome
from libs.common.database.records_experiments import NewRating
from libs.common.database.records_tasks import StoreOutcome
from libs.common.database.states import State, SubmissionState
from libs.common.database.stores import live_ids
from libs.common.database.stores.batch_progress import BatchProgressStore
from libs.common.database.stores.generations import GenerationStore
from libs.common.database.stores.partitions import Forgotten, PartitionStore
from libs.common.database.stores.ratings import RatingStore
from libs.common.database.stores.storing import ResultStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.ids import first_id, new_id
from tests.support.batches import batch, look_after, open_batch
from tests.support.dispatchers import Dispatcher
from tests.support.rows import execute, insert, new_generation, rows
from tests.support.waiting import eventually

OUTPUTS = [{"type": "image", "url": "https://example.com/1.png"}]
# The partition that a new database begins with ends within two months: seen from then it is old.
LATER = -100
REFERRING = ("submissions", "poll_tasks", "callbacks", "generation_ratings")


def _id_of(at: datetime) -> str:
    return first_id("gen", at) + new_id("gen")[-16:]


async def _partition_of(database: Database, table: str, column: str, value: str) -> str:
    (row,) = await rows(
        database, f"SELECT tableoid::regclass::text AS name FROM {table} WHERE {column} = :value", value=value
    )
    return str(row["name"])


async def _counts(database: Database) -> dict[str, int]:
    found = {}
    for table in ("generation_requests", *REFERRING, "generation_batches", "batch_dependencies"):
        ((found[table],),) = ((row["count"],) for row in await rows(database, f"SELECT count(*) FROM {table}"))
    return found


async def _claim_and_record(database: Database) -> list[DispatchOutcome]:
    """Claim what waits and record a submit for each: how each of them ends well."""
    dispatcher = Dispatcher(database)
    claimed = await dispatcher.claim(100)
    attempts = [Attempt(new_id("sub"), one.id, one.lease_token) for one in claimed]
    assert all(await dispatcher.record_attempts(attempts))
    return [
        DispatchOutcome(
            attempt.generation_id,
            attempt.lease_token,
            State.SUCCESS,
            submission_id=attempt.submission_id,
            submission_state=SubmissionState.COMPLETED,
            outputs=OUTPUTS,
        )
        for attempt in attempts
    ]


async def test_months_are_made_ahead_and_once(database: Database) -> None:
    store = PartitionStore(database)
    before = await store.ends()
    made = await store.extend(4)
    assert {name.rpartition("_20")[0] for name in made} == {table.name for table in TABLES}
    assert await store.extend(4) == []
    end = month_of(datetime.now(UTC), later=5)
    assert await store.ends() == {table.name: end for table in TABLES}
    assert all(before[name] < end for name in before)


async def test_what_comes_lies_in_its_month(database: Database) -> None:
    await PartitionStore(database).extend(3)
    month = month_of(datetime.now(UTC), later=3)
    names = {}
    for at in (month, month + timedelta(days=27), month - timedelta(seconds=1), month + timedelta(days=40)):
        generation = new_generation(id=_id_of(at))
        await insert(database, [generation])
        names[at] = await _partition_of(database, "generation_requests", "id", generation.id)
    assert list(names.values()) == [
        f"generation_requests_{month:%Y_%m}",
        f"generation_requests_{month:%Y_%m}",
        f"generation_requests_{month_of(month, later=-1):%Y_%m}",
        "generation_requests_rest",
    ]


async def test_what_came_for_a_month_without_a_partition_is_kept_and_found(database: Database) -> None:
    store = PartitionStore(database)
    month = month_of(datetime.now(UTC), later=3)
    early = new_generation(id=_id_of(month))
    await insert(database, [early])
    made = await store.extend(4)
    assert f"generation_requests_{month:%Y_%m}" not in made
    assert f"generation_requests_{month_of(month, later=1):%Y_%m}" in made
    (outcome,) = await _claim_and_record(database)
    assert await Dispatcher(database).end([outcome]) == [State.SUCCESS]
    assert await _partition_of(database, "submissions", "generation_id", early.id) == f"submissions_{month:%Y_%m}"


async def _ended_in_a_month(database: Database) -> str:
    """A batch and other generations that have ended, each with all that can refer to it; one is of a later month.

    Its id is answered.
    """
    batch_id = await open_batch(database, 2, needs={1: [0]}, callback_url="https://example.com/")
    fields = {"callback_url": "https://example.com/hook"}
    later = new_generation(id=_id_of(month_of(datetime.now(UTC), later=4)), **fields)
    await insert(database, [*(new_generation(**fields) for _ in range(3)), later])
    for _ in range(2):
        await Dispatcher(database).end(await _claim_and_record(database))
        await look_after(database)
    assert (await batch(database, batch_id)).ended_at is not None
    for row in await rows(database, "SELECT id FROM generation_requests"):
        assert await RatingStore(database).rate(NewRating(row["id"], 5, "", {}), owner=None)
    await execute(
        database,
        "INSERT INTO poll_tasks (provider_id, task_id, generation_id, adapter_name, strategy, poll_interval_ms,"
        " next_poll_at, deadline_at, state, ended_at)"
        " SELECT 'bfl', id, id, 'flux', 'fixed', 1, now(), now(), 'SUCCESS', now() FROM generation_requests",
    )
    return later.id


async def test_a_month_is_forgotten_whole(database: Database) -> None:
    store = PartitionStore(database)
    await store.extend(4)
    later_id = await _ended_in_a_month(database)
    steps = []
    while (step := await store.forget_generations(days=LATER, limit=4)).rows:
        assert step.rows <= 4 * len(REFERRING)
        steps.append(step.rows)
    assert len(steps) > 1
    assert step.partitions == ("submissions_first", "generation_requests_first")
    assert await store.forget_batches(days=LATER, limit=100) == 1
    left = dict.fromkeys(("generation_requests", *REFERRING), 1)
    assert await _counts(database) == left | {"generation_batches": 0, "batch_dependencies": 0}
    assert [row["id"] for row in await rows(database, "SELECT id FROM generation_requests")] == [later_id]
    # Seen from when the first partition has ended, the next has not.
    assert await store.forget_generations(days=-62, limit=100) == Forgotten()


async def test_a_month_stays_while_something_of_it_is_under_way(database: Database) -> None:
    store = PartitionStore(database)
    await store.extend(4)
    await _ended_in_a_month(database)
    under_way = new_generation()
    await insert(database, [under_way])
    before = await _counts(database)
    assert await store.forget_generations(days=LATER, limit=100) == Forgotten(live_id=under_way.id)
    assert await store.forget_batches(days=LATER, limit=100) == 0
    assert await _counts(database) == before
    await Dispatcher(database).end(await _claim_and_record(database))
    assert (await store.forget_generations(days=LATER, limit=100)).rows > 0


@pytest.fixture
async def worker(database: Database, database_url: str) -> AsyncIterator[Database]:
    """As a role that owns no table, but reads and writes all."""
    name = f"worker_{uuid4().hex}"
    await execute(database, f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    await execute(database, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
    url = make_url(database_url).set(username=name, password=name)
    found = Database(
        url.render_as_string(hide_password=False), size=1, statement_timeout_seconds=10, application_name="worker"
    )
    yield found
    await found.close()
    await execute(database, f"DROP OWNED BY {name}")
    await execute(database, f"DROP ROLE {name}")


async def test_who_owns_no_table_makes_and_drops_months_all_the_same(worker: Database) -> None:
    store = PartitionStore(worker)
    made = await store.extend(3)
    assert len(made) > len(TABLES)
    assert (await store.forget_errors(days=LATER, limit=100)).partitions == ("error_logs_first",)
    assert (await store.forget_generations(days=LATER, limit=100)).partitions
    assert await live_ids.look(worker) is not None


@pytest.mark.parametrize(
    "call",
    [
        "drop_month('generation_requests', 'api_keys')",
        "drop_month('api_keys', 'api_keys')",
        "drop_month('generation_requests', 'generation_requests_rest')",
        "make_month('generation_requests', 'anything', 'a', 'b')",
        "make_month('api_keys', 'api_keys_2027_01', 'a', 'b')",
    ],
)
async def test_nothing_but_months_is_made_or_dropped(worker: Database, call: str) -> None:
    with pytest.raises(sa.exc.InternalError, match="is no month of"):
        await execute(worker, f"SELECT {call}")


async def test_who_may_not_delete_may_not_drop(database: Database, worker: Database) -> None:
    await execute(database, "REVOKE DELETE ON error_logs FROM PUBLIC")
    (row,) = await rows(worker, "SELECT current_user AS name")
    await execute(database, f"REVOKE DELETE ON error_logs FROM {row['name']}")
    with pytest.raises(sa.exc.ProgrammingError, match="may not change"):
        await execute(worker, "SELECT drop_month('error_logs', 'error_logs_first')")


async def test_a_month_with_something_under_way_is_not_dropped_by_hand_either(database: Database) -> None:
    await insert(database, [new_generation()])
    with pytest.raises(sa.exc.InternalError, match="is under way"):
        await execute(database, "SELECT drop_month('generation_requests', 'generation_requests_first')")


async def test_errors_are_forgotten_by_the_month(database: Database) -> None:
    store = PartitionStore(database)
    await store.extend(2)
    assert (await store.forget_errors(days=1, limit=100)).partitions == ()
    assert (await store.forget_errors(days=LATER, limit=100)).partitions == ("error_logs_first",)


async def test_a_table_that_somebody_holds_is_left_for_the_next_time(database: Database, database_url: str) -> None:
    other = Database(database_url, size=1, statement_timeout_seconds=10, application_name="other")
    store = PartitionStore(database)

    def hold(c: Any) -> None:
        c.exec_driver_sql("SELECT count(*) FROM generation_requests")
        c.exec_driver_sql("SELECT pg_sleep(2)")

    async def other_holds() -> bool:
        held = "SELECT FROM pg_locks WHERE relation = 'generation_requests'::regclass AND mode = 'AccessShareLock'"
        return len(await rows(database, f"{held} AND pid <> pg_backend_pid()")) > 0

    holding = asyncio.create_task(other.transaction("hold", hold))
    try:
        await eventually(other_holds, within=5, what="the other holds the table")
        with pytest.raises(GenerationError) as caught:
            await store.extend(3)
        assert caught.value.code == ErrorCode.SERVICE_UNAVAILABLE
        await holding
        assert await store.extend(3) != []
    finally:
        await other.close()


@contextmanager
def _locks(database: Database) -> Iterator[list[int]]:
    """How many locks on months to come, and their indexes, each transaction within it held at its end."""
    found: list[int] = []

    def count(connection: sa.Connection) -> None:
        held = sa.text("""
            SELECT count(*) FROM pg_locks JOIN pg_class c ON c.oid = relation
            WHERE pid = pg_backend_pid() AND relname ~ '_(20[0-9]{2}_[0-9]{2}|rest)'""")
        found.append(connection.execute(held).scalar_one())

    sa.event.listen(database.engine, "commit", count)
    try:
        yield found
    finally:
        sa.event.remove(database.engine, "commit", count)


async def _carry(database: Database, count: int = 2) -> list[int]:
    """Carry so many generations to their ends and look at them; the locks of each step."""
    database.live_ids.hear(await live_ids.look(database))
    made = [new_generation(id=new_id("gen")) for _ in range(count)]
    await insert(database, made)
    dispatcher, results = Dispatcher(database), ResultStore(database, owner="two", lease_seconds=30)
    generations = GenerationStore(database)
    with _locks(database) as found:
        outcomes = await _claim_and_record(database)
        await dispatcher.claims.rescue(10, held=[])
        await dispatcher.claims.renew([Lease(one.generation_id, one.lease_token) for one in outcomes])
        await dispatcher.end([replace(one, state=State.STORING, sources=OUTPUTS, outputs=None) for one in outcomes])
        claimed = await results.claim(count)
        await results.renew([one.claim for one in claimed])
        await results.end([StoreOutcome(one.id, one.lease_token, State.SUCCESS, outputs=OUTPUTS) for one in claimed])
        assert {one.id for one in claimed} == {one.id for one in made}
        assert await generations.get(made[0].id) is not None
        assert len(await generations.changes({one.id: "" for one in made})) == count
        await dispatcher.outcomes.queue()
        await BatchProgressStore(database).look_after([], patience_seconds=1)
    return found


async def test_statements_that_run_all_the_time_know_nothing_of_other_months(database: Database) -> None:
    await open_batch(database, 1, providers=["openai"], fields={"id": new_id("gen")})
    await PartitionStore(database).extend(14)
    assert set(await _carry(database)) == {0}


async def test_the_range_has_all_that_is_under_way_and_what_is_to_come(database: Database) -> None:
    now = datetime.now(UTC)
    found = await live_ids.look(database)
    assert found.first < _id_of(now - timedelta(days=1))
    assert _id_of(now + timedelta(hours=20)) < found.last
    old, ahead = (new_generation(id=_id_of(now + timedelta(days=days))) for days in (-90, 30))
    await insert(database, [old, ahead])
    found = await live_ids.look(database)
    assert found.first < old.id
    assert ahead.id <= found.last
    await Dispatcher(database).end(await _claim_and_record(database))
    found = await live_ids.look(database)
    assert old.id < found.first


def test_months_begin_in_utc() -> None:
    at = datetime(2026, 12, 31, 23, 30, tzinfo=UTC)
    assert [month_of(at, later=later) for later in (-12, 0, 1, 13)] == [
        datetime(2025, 12, 1, tzinfo=UTC),
        datetime(2026, 12, 1, tzinfo=UTC),
        datetime(2027, 1, 1, tzinfo=UTC),
        datetime(2028, 1, 1, tzinfo=UTC),
    ]
