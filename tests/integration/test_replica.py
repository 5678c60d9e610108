"""Statistics are read of a standby while it is there and keeps up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from libs.common.database.engine import Database
from libs.common.database.replica import ReplicaDatabase
from libs.common.settings import ServiceName
from sandbox.postgres import Postgres
from sandbox.processes import free_port
from tests.conftest import StartStack
from tests.support.backups import standby_of
from tests.support.rows import execute, opened, rows
from tests.support.waiting import eventually

_LAG_SECONDS = 0.5
SERVICES: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller", "monitor", "experiments")
READING: tuple[ServiceName, ...] = ("monitor", "experiments")


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[tuple[Postgres, Postgres]]:
    primary = Postgres(tmp_path / "primary", free_port(), durable=False)
    primary.start()
    standby = await asyncio.to_thread(standby_of, primary, tmp_path / "standby")
    standby.start()
    yield primary, standby
    standby.stop()
    primary.stop()


@pytest.fixture
async def primary(servers: tuple[Postgres, Postgres]) -> AsyncIterator[Database]:
    found = Database(servers[0].url, size=1, statement_timeout_seconds=10, application_name="test")
    yield found
    await found.close()


@pytest.fixture
async def replica(servers: tuple[Postgres, Postgres], primary: Database) -> AsyncIterator[ReplicaDatabase]:
    found = ReplicaDatabase(
        servers[1].url,
        primary=primary,
        lag_seconds=_LAG_SECONDS,
        size=1,
        statement_timeout_seconds=10,
        application_name="test",
    )
    yield found
    await found.close()


async def _port(database: Database) -> int:
    (row,) = await rows(database, "SELECT current_setting('port')::int AS port")
    return int(row["port"])


async def _write(primary: Database) -> None:
    await execute(primary, "CREATE TABLE IF NOT EXISTS written (at timestamptz)")
    await execute(primary, "INSERT INTO written VALUES (now())")


def _in_use() -> float | None:
    return REGISTRY.get_sample_value("darkroom_database_replica_in_use")


async def test_the_standby_is_read_while_it_is_there(
    servers: tuple[Postgres, Postgres], primary: Database, replica: ReplicaDatabase
) -> None:
    on_primary, on_standby = (server.port for server in servers)
    assert await _port(replica) == on_primary

    async def follows() -> bool:
        await _write(primary)
        await replica.look()
        return await _port(replica) == on_standby

    await eventually(follows, within=10, what="the standby is read")
    assert _in_use() == 1
    (row,) = await rows(replica, "SELECT count(*) > 0 AS has_come FROM written")
    assert row["has_come"]
    servers[1].stop()
    assert await _port(replica) == on_primary
    assert _in_use() == 0
    await replica.look()
    assert await _port(replica) == on_primary
    servers[1].start()
    await eventually(follows, within=10, what="the standby is read again")


async def test_a_standby_that_is_behind_is_not_read(
    servers: tuple[Postgres, Postgres], primary: Database, replica: ReplicaDatabase
) -> None:
    async def is_read() -> bool:
        await _write(primary)
        await replica.look()
        return await _port(replica) == servers[1].port

    await eventually(is_read, within=10, what="the standby is read")
    await execute(replica, "SELECT pg_wal_replay_pause()")

    async def is_left() -> bool:
        return not await is_read()

    await eventually(is_left, within=10, what="the primary is read")
    assert (REGISTRY.get_sample_value("darkroom_database_replica_lag_seconds") or 0.0) > _LAG_SECONDS
    await _resume(servers[1])
    await eventually(is_read, within=10, what="the standby has caught up")


async def _resume(standby: Postgres) -> None:
    direct = Database(standby.url, size=1, statement_timeout_seconds=10, application_name="test", is_read_only=True)
    await execute(direct, "SELECT pg_wal_replay_resume()")
    await direct.close()


async def test_services_read_statistics_where_they_are_told(start_stack: StartStack, database_url: str) -> None:
    # A server that is no standby is never behind.
    running = await start_stack(services=SERVICES, settings={"DARKROOM_DATABASE_REPLICA_URL": database_url})

    async def both_read_it() -> bool:
        return {await running.metric(name, "darkroom_database_replica_in_use") for name in READING} == {1}

    await eventually(both_read_it, within=20, what="the standby is read")
    async with opened(database_url) as database:
        found = await rows(
            database,
            "SELECT DISTINCT application_name AS name FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'darkroom-%-reading'",
        )
    assert {row["name"] for row in found} == {f"darkroom-{name}-reading" for name in READING}
