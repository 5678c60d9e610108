"""The proxy before Postgres forwards all messages, loses replies to COMMIT alone, and holds the one that is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg2
import pytest
import sqlalchemy as sa

from chaos.postgres_proxy import PostgresProxy
from libs.common.database.engine import Database
from sandbox.processes import free_port
from tests.support.infrastructure import Infrastructure


@asynccontextmanager
async def _proxied(shared: Infrastructure, url: str, lost_share: float) -> AsyncIterator[tuple[PostgresProxy, sa.URL]]:
    port = free_port()
    proxy = PostgresProxy(port, shared.postgres.port, lost_share=lost_share, seed=1)
    await proxy.start()
    try:
        yield proxy, sa.make_url(url).set(port=port)
    finally:
        await proxy.close()


@pytest.fixture
async def database_with_table(database: Database) -> Database:
    await database.transaction("test", lambda c: c.execute(sa.text("CREATE TABLE written (number int)")))
    return database


async def _numbers(database: Database) -> list[int]:
    return await database.transaction(
        "test", lambda c: list(c.execute(sa.text("SELECT number FROM written ORDER BY 1")).scalars())
    )


def _write(
    url: sa.URL, number: int, *, statement: str = "INSERT INTO written VALUES (%s)", application: str = "a"
) -> None:
    """One transaction, as a driver without retries makes it."""
    connection = psycopg2.connect(
        host=url.host, port=url.port, user=url.username, password=url.password, dbname=url.database,
        application_name=application,
    )  # fmt: skip
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, (number,))
    finally:
        connection.close()


async def test_what_is_not_lost_passes_unchanged(
    shared: Infrastructure, database_url: str, database_with_table: Database
) -> None:
    async with _proxied(shared, database_url, 0.0) as (proxy, url):
        through = Database(
            url.render_as_string(hide_password=False), size=4, statement_timeout_seconds=10, application_name="a"
        )
        long = "x" * 300_000
        query = sa.text("SELECT repeat(:long, 3)")
        found = await through.transaction("test", lambda c: c.execute(query, {"long": long}).scalar_one())
        await through.close()
        await asyncio.to_thread(_write, url, 1)
    assert found == long * 3
    assert proxy.lost_replies == 0
    assert await _numbers(database_with_table) == [1]


async def test_a_lost_reply_leaves_the_transaction_committed(
    shared: Infrastructure, database_url: str, database_with_table: Database
) -> None:
    async with _proxied(shared, database_url, 1.0) as (proxy, url):
        with pytest.raises(psycopg2.OperationalError):
            await asyncio.to_thread(_write, url, 7)
        assert proxy.lost_replies == 1
        assert await _numbers(database_with_table) == [7]
        proxy.stop_faults()
        await asyncio.to_thread(_write, url, 8)
    assert await _numbers(database_with_table) == [7, 8]


async def test_reads_and_rollbacks_lose_no_reply(
    shared: Infrastructure, database_url: str, database_with_table: Database
) -> None:
    async with _proxied(shared, database_url, 1.0) as (proxy, url):
        await asyncio.to_thread(_write, url, 1, statement="SELECT %s")
        with pytest.raises(psycopg2.errors.DivisionByZero):
            await asyncio.to_thread(_write, url, 0, statement="INSERT INTO written SELECT 1 / %s")
    assert proxy.lost_replies == 0
    assert await _numbers(database_with_table) == []


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_held_commit_waits_for_the_decision(
    shared: Infrastructure, database_url: str, database_with_table: Database, *, is_cut: bool
) -> None:
    async with _proxied(shared, database_url, 0.0) as (proxy, url):
        holding = asyncio.create_task(proxy.hold("wanted", "INSERT INTO written", within_seconds=10))
        await asyncio.sleep(0)
        await asyncio.to_thread(_write, url, 1, application="other")
        writing = asyncio.create_task(asyncio.to_thread(_write, url, 2, application="wanted"))
        held = await holding
        assert held is not None
        assert await _numbers(database_with_table) == [1, 2]
        assert not writing.done()
        held.cut() if is_cut else held.release()
        (outcome,) = await asyncio.gather(writing, return_exceptions=True)
        assert isinstance(outcome, psycopg2.OperationalError) == is_cut
        # Asked for once, it is held once.
        await asyncio.to_thread(_write, url, 3, application="wanted")
    assert await _numbers(database_with_table) == [1, 2, 3]


async def test_holding_ends_where_no_such_commit_comes(shared: Infrastructure, database_url: str) -> None:
    async with _proxied(shared, database_url, 0.0) as (proxy, _):
        assert await proxy.hold("nobody", "INSERT", within_seconds=0.05) is None
