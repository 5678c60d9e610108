"""The pool of connections, on a Postgres that goes away."""

from __future__ import annotations

import asyncio
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.errors import ErrorCode, GenerationError, OutcomeUnknown
from sandbox.processes import free_port
from tests.support.rows import execute, rows

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'"


@pytest.fixture
def victim(database_url: str) -> Database:
    return Database(database_url, size=2, statement_timeout_seconds=1, application_name="victim")


async def test_a_connection_that_died_while_it_was_idle_is_replaced(database: Database, victim: Database) -> None:
    for _ in range(2):
        await asyncio.gather(*(victim.ping() for _ in range(4)))
        await rows(database, KILL)
    await asyncio.gather(*(victim.ping() for _ in range(4)))
    assert victim.open_connections() == 2
    await victim.close()


async def test_what_died_before_the_commit_is_done_once_more_and_once_only(
    database: Database, victim: Database
) -> None:
    await execute(database, "CREATE TABLE counted (value int)")
    runs = []

    def work(connection: sa.Connection) -> None:
        runs.append(1)
        connection.execute(sa.text("INSERT INTO counted VALUES (1)"))
        if len(runs) == 1:
            connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))

    await victim.transaction("test", work)
    assert len(runs) == 2
    assert len(await rows(database, "SELECT * FROM counted")) == 1
    await victim.close()


async def test_a_database_that_stays_away_is_told_with_a_code() -> None:
    away = Database(
        "postgresql+psycopg2://u:p@127.0.0.1:9/x", size=1, statement_timeout_seconds=1, application_name="x"
    )
    with pytest.raises(GenerationError) as caught:
        await away.ping()
    assert (caught.value.code, caught.value.is_retryable) == (ErrorCode.SERVICE_UNAVAILABLE, True)
    await away.close()


async def test_a_statement_that_takes_too_long_is_ended(victim: Database) -> None:
    with pytest.raises(GenerationError) as caught:
        await execute(victim, "SELECT pg_sleep(30)")
    assert caught.value.code is ErrorCode.SERVICE_UNAVAILABLE
    await victim.close()


async def test_a_fault_of_ours_comes_through_as_it_is(victim: Database) -> None:
    with pytest.raises(sa.exc.ProgrammingError):
        await execute(victim, "SELECT nothing_like_this")
    await victim.close()


async def test_no_more_connections_are_opened_than_the_pool_has(database: Database, victim: Database) -> None:
    await asyncio.gather(*(execute(victim, "SELECT pg_sleep(0.05)") for _ in range(10)))
    (row,) = await rows(database, "SELECT count(*) AS count FROM pg_stat_activity WHERE application_name = 'victim'")
    assert row["count"] == victim.open_connections() == 2
    await victim.close()


async def test_of_several_hosts_the_one_that_is_there_is_taken(database_url: str) -> None:
    url = sa.make_url(database_url)
    hosts = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{url.port}")
    several = url.set(host=None, port=None).update_query_dict({"host": hosts})
    found = Database(
        several.render_as_string(hide_password=False), size=1, statement_timeout_seconds=5, application_name="test"
    )
    assert await rows(found, "SELECT inet_server_port() AS port") == [{"port": url.port}]
    await found.close()


async def test_a_server_that_only_reads_counts_as_away(database_url: str, database: Database) -> None:
    """A standby refuses writes with this; here the database is told to."""
    name = sa.make_url(database_url).database
    await execute(database, "CREATE TABLE written (number int)")
    await execute(database, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await database.close()
    found = Database(database_url, size=1, statement_timeout_seconds=5, application_name="test")
    with pytest.raises(GenerationError) as caught:
        await found.ping()
    assert caught.value.code is ErrorCode.SERVICE_UNAVAILABLE
    await found.close()


async def test_a_server_that_becomes_one_is_left(database: Database) -> None:
    def write_read_only(connection: sa.Connection) -> None:
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        connection.execute(sa.text("CREATE TABLE written (number int)"))

    with pytest.raises(GenerationError) as caught:
        await database.transaction("test", write_read_only)
    assert caught.value.code is ErrorCode.SERVICE_UNAVAILABLE
    await database.ping()


async def test_a_transaction_that_stands_still_holds_its_rows_for_a_bounded_time(database_url: str) -> None:
    paused, other = (
        Database(database_url, size=1, statement_timeout_seconds=20, application_name=name, idle_timeout_seconds=0.3)
        for name in ("paused", "other")
    )
    await execute(other, "CREATE TABLE held (id int)")
    await execute(other, "INSERT INTO held VALUES (1)")
    is_held, is_released = threading.Event(), threading.Event()

    def hold(connection: Connection) -> None:
        connection.execute(sa.text("SELECT id FROM held FOR UPDATE"))
        is_held.set()
        assert is_released.wait(30)

    holding = asyncio.create_task(paused.transaction("hold", hold))
    await asyncio.to_thread(is_held.wait, 10)
    await execute(other, "UPDATE held SET id = 2")
    is_released.set()
    with pytest.raises(OutcomeUnknown):
        await holding
    await paused.close()
    await other.close()
