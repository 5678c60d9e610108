"""Both settings on the same work, and what is left of it in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import sqlalchemy as sa
from rich.table import Table

from bench.churn.way import GROUP, Way
from bench.place import Place
from bench.usage import Usage
from libs.common.database import migrate
from libs.common.database.engine import Database
from libs.common.database.stores import live_ids

_REPLICAS = 4
_LOOK_SECONDS = 2.0
# Autovacuum looks every five seconds instead of every minute: what takes hours at work is seen in minutes.
_NAP = "5s"
_TABLES = "'generation_requests_first', 'submissions_first', 'poll_tasks'"
_LIVE_INDEXES = (
    "ix_generation_requests_waiting",
    "ix_generation_requests_at_provider",
    "ix_generation_requests_storing",
    "ix_generation_requests_state",
    "uq_submissions_open",
    "ix_poll_tasks_due",
)
_DEAD = sa.text(f"SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname IN ({_TABLES})")
_LEFT = sa.text(f"""
SELECT sum(pg_table_size(relid))::bigint AS table_bytes, sum(pg_indexes_size(relid))::bigint AS index_bytes,
    sum(n_tup_hot_upd)::float / sum(n_tup_upd) AS hot, sum(autovacuum_count)::int AS vacuums
FROM pg_stat_user_tables WHERE relname IN ({_TABLES})""")
_LIVE_BYTES = sa.text("""
SELECT sum(pg_relation_size(i.indexrelid))::bigint FROM pg_stat_user_indexes i
WHERE regexp_replace(i.indexrelname, '_first$', '') = ANY(:names)""")
_WAL = sa.text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
_COUNT = sa.text("SELECT count(*) FROM generation_requests")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run showed; bytes are of the three tables together, or of the indexes of what is under way."""

    settings: str
    ended: int
    rows: int
    seconds: float
    first_claims: Sequence[float]
    last_claims: Sequence[float]
    dead_rows: int
    table_bytes: int
    index_bytes: int
    live_index_bytes: int
    fresh_live_index_bytes: int
    hot: float
    vacuums: int
    wal_bytes: int
    cpu_seconds: float


async def measured(found: Place, settings: str, seconds: float, backlog: int) -> Measured:
    """Let generations come and go for so long, over a `backlog` that waits."""
    url = found.postgres.create_database(settings)
    migrate.upgrade(url)
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER SYSTEM SET autovacuum_naptime = '{_NAP}'")
        connection.exec_driver_sql("SELECT pg_reload_conf()")
        if settings == "default":
            _reset(connection)
    database = Database(url, size=_REPLICAS, statement_timeout_seconds=60, application_name="churn")
    ways = [Way(database, f"replica-{number}") for number in range(_REPLICAS)]
    for _ in range(backlog // GROUP):
        await ways[0].take_in(GROUP)
    database.live_ids.hear(await live_ids.look(database))
    with engine.connect() as connection:
        wal = connection.execute(_WAL).scalar_one()
    usage = Usage((found.postgres.pid,))
    usage.start()
    began = monotonic()
    dead, ended = await _churned(engine, ways, began + seconds, found, usage)
    took = monotonic() - began
    cpu_seconds = usage.cpu_seconds
    await database.close()
    with engine.connect() as connection:
        wal_bytes = int(connection.execute(_WAL).scalar_one() - wal)
        left = connection.execute(_LEFT).one()
        rows = connection.execute(_COUNT).scalar_one()
        live, fresh = _live_bytes(connection)
    claims = [one for times in zip(*(way.claim_seconds for way in ways), strict=False) for one in times]
    fifth = len(claims) // 5
    found.tell(f"{settings}: {ended:,} ended in {took:.0f} s")
    return Measured(
        settings, ended, rows, took, claims[:fifth], claims[-fifth:], dead, left.table_bytes, left.index_bytes, live,
        fresh, left.hot, left.vacuums, wal_bytes, cpu_seconds,
    )  # fmt: skip


async def _churned(engine: sa.Engine, ways: Sequence[Way], until: float, found: Place, usage: Usage) -> tuple[int, int]:
    """The most dead rows there were, and how many generations ended."""
    ended = 0

    async def run(way: Way) -> None:
        nonlocal ended
        while monotonic() < until:
            carried = await way.carry()
            ended += carried

    def look() -> int:
        with engine.connect() as connection:
            return int(connection.execute(_DEAD).scalar_one())

    running = [asyncio.create_task(run(way)) for way in ways]
    dead = told = 0
    while not all(task.done() for task in running):
        await asyncio.wait(running, timeout=_LOOK_SECONDS)
        dead = max(dead, await asyncio.to_thread(look))
        usage.look()
        if ended - told > 20_000:
            told = ended
            found.tell(f"{ended:,} ended")
    await asyncio.gather(*running)
    return dead, ended


def _reset(connection: sa.Connection) -> None:
    named = sa.text("SELECT split_part(unnest(reloptions), '=', 1) FROM pg_class WHERE oid = CAST(:name AS regclass)")
    for table in (name.strip("' ") for name in _TABLES.split(",")):
        options = list(connection.execute(named, {"name": table}).scalars())
        connection.exec_driver_sql(f"ALTER TABLE {table} RESET ({', '.join(options)})")


def _live_bytes(connection: sa.Connection) -> tuple[int, int]:
    """The bytes of the indexes of what is under way, as they are and built anew."""
    names = {"names": list(_LIVE_INDEXES)}
    before = connection.execute(_LIVE_BYTES, names).scalar_one()
    for table in (name.strip("' ") for name in _TABLES.split(",")):
        connection.exec_driver_sql(f"REINDEX TABLE {table}")
    return int(before), int(connection.execute(_LIVE_BYTES, names).scalar_one())


def figures(found: Sequence[Measured]) -> Table:
    """The runs side by side."""
    table = Table("figure", *(one.settings for one in found), box=None)
    rows: tuple[tuple[str, Callable[[Measured], str]], ...] = (
        ("generations/s", lambda one: f"{one.ended / one.seconds:,.0f}"),
        ("claim of 100, first fifth, ms (99 %)", lambda one: _times(one.first_claims)),
        ("claim of 100, last fifth, ms (99 %)", lambda one: _times(one.last_claims)),
        ("dead rows at the most", lambda one: f"{one.dead_rows:,}"),
        ("runs of autovacuum", lambda one: f"{one.vacuums}"),
        ("updates that touch no index, %", lambda one: f"{100 * one.hot:.0f}"),
        ("indexes of what is under way, kB (built anew)", _kilobytes),
        ("tables, bytes a generation", lambda one: f"{one.table_bytes / one.rows:,.0f}"),
        ("indexes, bytes a generation", lambda one: f"{one.index_bytes / one.rows:,.0f}"),
        ("CPU of Postgres, ms a generation", lambda one: f"{1_000 * one.cpu_seconds / one.ended:.1f}"),
        ("log, bytes a generation", lambda one: f"{one.wal_bytes / one.ended:,.0f}"),
    )
    for name, shown in rows:
        table.add_row(name, *(shown(one) for one in found))
    return table


def _times(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"{1_000 * ordered[len(ordered) // 2]:.1f} ({1_000 * ordered[len(ordered) * 99 // 100]:.1f})"


def _kilobytes(one: Measured) -> str:
    return f"{one.live_index_bytes / 1_024:,.0f} ({one.fresh_live_index_bytes / 1_024:,.0f})"
