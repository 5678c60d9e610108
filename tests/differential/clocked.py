"""A database whose clock is moved by the recording, so that what is due does not depend on the speed of the machine.

Functions `now()` and `clock_timestamp()` of its schema come before those of Postgres in the search path, also while
the schema is made. `CURRENT_TIMESTAMP` and functions with a search path of their own still show the machine's time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from libs.common.database import migrate
from libs.common.database.engine import Database
from sandbox.postgres import Postgres
from sandbox.processes import free_port
from tests.conftest import stack_folder
from tests.support.rows import execute

_NAME = "differential"
# Each transaction has a time of its own, as it has with a real clock: later ones differ by microseconds.
_CLOCK = """
CREATE SCHEMA differential;
CREATE TABLE differential.clock AS SELECT timestamptz '2026-06-15 12:00:00+00' AS at;
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT at + (pg_current_xact_id()::text::bigint % 1000000) * interval '1 microsecond' FROM differential.clock $$;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT public.now() $$;
ALTER DATABASE differential SET search_path = public, pg_catalog"""


@contextmanager
def clocked_database() -> Iterator[str]:
    """Start a Postgres with an empty database of the newest schema, and yield its URL."""
    with stack_folder() as folder:
        postgres = Postgres(folder / "postgres", free_port(), durable=False)
        postgres.start()
        try:
            url = postgres.create_database(_NAME)
            # Statistics that autovacuum gathers at any time would change plans, and with them the order of rows.
            _run(url, "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()", *_CLOCK.split(";\n"))
            migrate.upgrade(url)
            yield url
        finally:
            postgres.stop()


def _run(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sa.text(statement.replace("::", r"\:\:")))


async def advance(database: Database, seconds: float) -> None:
    """Move the clock of the database on."""
    sql = "UPDATE differential.clock SET at = at + make_interval(secs => :seconds)"
    await execute(database, sql, seconds=seconds)
