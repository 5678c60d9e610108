"""What failures of Postgres are called: true sentences, provoked for real where that can be done."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from threading import Barrier, Event
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.database.engine import Database
from libs.common.errors import ErrorCode, GenerationError, OutcomeUnknown, StatementEnded
from tests.support.commits import CommitProxy, Loss
from tests.support.rows import execute, rows

UNREACHABLE = "The database cannot be reached."


@pytest.fixture
async def found(database_url: str, database: Database) -> AsyncIterator[Database]:
    await execute(database, "CREATE TABLE held (id int PRIMARY KEY, value int NOT NULL)")
    await execute(database, "INSERT INTO held SELECT n, 0 FROM generate_series(1, 2) n")
    made = Database(database_url, size=2, statement_timeout_seconds=1, application_name="found")
    yield made
    await made.close()


async def _failure(database: Database, sql: str) -> GenerationError:
    with pytest.raises(GenerationError) as caught:
        await execute(database, sql)
    return caught.value


async def test_a_statement_timeout_is_no_outage(found: Database) -> None:
    error = await _failure(found, "SELECT pg_sleep(30)")
    assert isinstance(error, StatementEnded)
    assert error.is_slow
    assert (error.code, error.is_retryable) == (ErrorCode.SERVICE_UNAVAILABLE, True)
    assert error.message == "A statement of the database took too long and was ended; nothing was committed."
    assert error.details == {"cause": "QueryCanceled", "sqlstate": "57014"}


async def test_a_lock_timeout_names_the_lock(database: Database, found: Database) -> None:
    entered, released = Event(), Event()

    def hold(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT FROM held WHERE id = 1 FOR UPDATE"))
        entered.set()
        released.wait(10)

    holding = asyncio.create_task(database.transaction("hold", hold))
    await asyncio.to_thread(entered.wait, 10)
    error = await _failure(found, "SET LOCAL lock_timeout = '50ms'; SELECT FROM held WHERE id = 1 FOR UPDATE")
    released.set()
    await holding
    assert (type(error), error.details["sqlstate"]) == (StatementEnded, "55P03")
    assert "locked by another transaction" in error.message


async def test_the_victim_of_a_deadlock_is_repeated(database: Database, found: Database) -> None:
    await execute(database, "SET deadlock_timeout = '50ms'")
    meeting = Barrier(2)
    runs: list[int] = []

    def crosswise(first: int, second: int) -> Callable[[sa.Connection], None]:
        mine: list[int] = []

        def work(connection: sa.Connection) -> None:
            mine.append(first)
            runs.append(first)
            connection.execute(sa.text("SET LOCAL deadlock_timeout = '50ms'"))
            connection.execute(sa.text(f"UPDATE held SET value = value + 1 WHERE id = {first}"))
            if len(mine) == 1:
                meeting.wait(10)
            connection.execute(sa.text(f"UPDATE held SET value = value + 1 WHERE id = {second}"))

        return work

    await asyncio.gather(found.transaction("test", crosswise(1, 2)), found.transaction("test", crosswise(2, 1)))
    assert len(runs) > 2, "there was a deadlock"
    assert [row["value"] for row in await rows(database, "SELECT value FROM held ORDER BY id")] == [2, 2]


async def test_transactions_that_cannot_be_serialized_are_repeated(database: Database, found: Database) -> None:
    meeting = Barrier(2)

    def count() -> Callable[[sa.Connection], None]:
        runs: list[int] = []

        def work(connection: sa.Connection) -> None:
            runs.append(1)
            connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
            value = connection.execute(sa.text("SELECT value FROM held WHERE id = 1")).scalar_one()
            if len(runs) == 1:
                meeting.wait(10)
            connection.execute(sa.text("UPDATE held SET value = :value WHERE id = 1"), {"value": value + 1})

        return work

    await asyncio.gather(found.transaction("test", count()), found.transaction("test", count()))
    assert (await rows(database, "SELECT value FROM held WHERE id = 1"))[0]["value"] == 2


async def test_a_conflict_that_does_not_end_comes_through(found: Database) -> None:
    error = await _failure(found, _raise("40001"))
    assert (type(error), error.is_retryable) == (StatementEnded, True)
    assert "changed the same rows" in error.message


async def test_a_backend_that_is_terminated_again_and_again_is_away(found: Database) -> None:
    error = await _failure(found, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert (error.code, error.message) == (ErrorCode.SERVICE_UNAVAILABLE, UNREACHABLE)


async def test_too_many_connections_are_called_that(database_url: str, database: Database) -> None:
    await execute(database, "DROP ROLE IF EXISTS lonely")
    await execute(database, "CREATE ROLE lonely LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
    url = sa.make_url(database_url).set(username="lonely", password="x").render_as_string(hide_password=False)
    one, another = (Database(url, size=1, statement_timeout_seconds=5, application_name=name) for name in ("1", "2"))
    await one.ping()
    with pytest.raises(GenerationError) as caught:
        await another.ping()
    await one.close()
    await another.close()
    await execute(database, "DROP ROLE lonely")
    assert caught.value.message.startswith("The database has no connection free.")
    assert caught.value.details == {"cause": "OperationalError", "sqlstate": "53300"}


def _raise(sqlstate: str) -> str:
    return f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$"


@pytest.mark.parametrize(
    ("sqlstate", "words", "may_be_a_rows"),
    [
        ("08006", UNREACHABLE, False),
        ("08P01", UNREACHABLE, False),
        ("57P01", UNREACHABLE, False),
        ("57P02", UNREACHABLE, False),
        ("57P03", UNREACHABLE, False),
        ("25006", "takes no writes", False),
        ("53000", "out of a resource", False),
        ("53100", "disk of the database is full", False),
        ("53200", "out of memory", True),
        ("53300", "no connection free", False),
        ("53400", "a limit of its configuration", False),
        ("58030", "server of the database has a fault", True),
        ("57014", "took too long", True),
        ("55P03", "locked by another transaction", True),
        ("40P01", "waited for each other", True),
        ("40001", "changed the same rows", True),
    ],
)
async def test_each_sqlstate_has_its_sentence(found: Database, sqlstate: str, words: str, may_be_a_rows: bool) -> None:
    error = await _failure(found, _raise(sqlstate))
    assert (error.code, error.is_retryable) == (ErrorCode.SERVICE_UNAVAILABLE, True)
    assert words in error.message
    assert error.details["sqlstate"] == sqlstate
    assert isinstance(error, StatementEnded) is may_be_a_rows


@pytest.mark.parametrize("sqlstate", ["23505", "22P02", "42601", "P0001", "55000"])
async def test_a_fault_of_ours_is_not_called_an_outage(found: Database, sqlstate: str) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        await execute(found, _raise(sqlstate))


@pytest.mark.parametrize(("loss", "written"), [("reply", 1), ("commit", 0)])
async def test_a_commit_whose_reply_is_lost_has_an_unknown_outcome(
    database_url: str, database: Database, loss: Loss, written: int
) -> None:
    await execute(database, "CREATE TABLE counted (value int)")
    proxy = CommitProxy(database_url)
    through = Database(await proxy.start(), size=1, statement_timeout_seconds=5, application_name="through")
    proxy.lose(loss, after="INTO counted")
    runs: list[Any] = []

    def work(connection: sa.Connection) -> None:
        runs.append(connection.execute(sa.text("INSERT INTO counted VALUES (1)")))

    with pytest.raises(OutcomeUnknown) as caught:
        await through.transaction("test", work)
    assert (caught.value.code, caught.value.is_retryable) == (ErrorCode.OUTCOME_UNKNOWN, False)
    assert (proxy.lost, len(runs)) == (1, 1), "what may have been committed is not done again"
    assert len(await rows(database, "SELECT * FROM counted")) == written
    await through.ping()
    await through.close()
    await proxy.close()
