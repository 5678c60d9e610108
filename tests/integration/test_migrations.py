from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from libs.common.database import migrate
from libs.common.database.all_tables import metadata
from libs.common.database.partitioning import is_compared
from libs.common.ids import new_id
from sandbox.processes import free_port
from tests.support.infrastructure import Infrastructure

_COMPARED = {"compare_type": True, "compare_server_default": True, "include_name": is_compared}


@pytest.fixture
def connection(database_url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    with engine.connect() as found:
        yield found


def test_the_migrations_make_the_tables_that_the_code_uses(connection: sa.Connection) -> None:
    context = MigrationContext.configure(connection, opts=_COMPARED)
    assert compare_metadata(context, metadata) == []


def test_every_column_and_table_is_commented_in_the_database(connection: sa.Connection) -> None:
    found = connection.execute(
        sa.text("""
            SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                AND a.attnum > 0
                AND c.relname <> 'alembic_version' AND col_description(c.oid, a.attnum) IS NULL""")
    ).scalars()
    assert list(found) == []


def _tables(url: str) -> list[str]:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return sorted(sa.inspect(engine).get_table_names())


def test_upgrading_again_does_nothing(database_url: str) -> None:
    before = _tables(database_url)
    migrate.upgrade(database_url)
    assert _tables(database_url) == before


def test_who_waits_for_the_schema_waits_for_what_it_needs(database_url: str, connection: sa.Connection) -> None:
    assert migrate.wait(database_url, 0)
    command.downgrade(migrate.config(connection), "-1")
    connection.commit()
    assert not migrate.is_ready(database_url)
    assert not migrate.wait(database_url, 0)
    migrate.upgrade(database_url)
    assert migrate.is_ready(database_url)


def test_a_newer_schema_is_left_as_it_is(database_url: str, connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    connection.commit()
    assert migrate.is_ready(database_url)
    migrate.upgrade(database_url)
    assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == "from_the_future"


def test_a_database_that_is_away_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert not migrate.wait(f"postgresql+psycopg2://x:y@127.0.0.1:{free_port()}/x", 0)


def test_the_way_back_leaves_nothing(shared: Infrastructure, connection: sa.Connection) -> None:
    command.downgrade(migrate.config(connection), "base")
    left = sa.inspect(connection).get_table_names()
    assert left == ["alembic_version"]


_GENERATION = """
INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt, number_of_outputs,
    when_uncertain, request_id, callback_url, continues_id)
VALUES (:id, 'PENDING', 'm', 'p', 'image', 'x', 1, 'fail', 'req_1', 'https://example.com/', :continues_id)"""
_SUBMISSION = """
INSERT INTO submissions (id, generation_id, attempt, provider_id, state)
VALUES (:id, :generation_id, 1, 'p', 'STARTED')"""
_ERROR = """
WITH fault AS (
    INSERT INTO error_groups (id, fingerprint, level, source, code, message, count, first_seen_at, last_seen_at)
    VALUES ('err_1', 'x', 'WARN', 's', 'c', 'm', 1, now(), now()) RETURNING id)
INSERT INTO error_logs (id, group_id, level, source, code, message, occurred_at)
SELECT 'log_01', id, 'WARN', 's', 'c', 'm', now() FROM fault"""
_SHAPE = """
SELECT relname || ' ' || pg_get_indexdef(c.oid) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE i.indrelid::regclass::text = ANY(:tables)
UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid::regclass::text = ANY(:tables) AND contype <> 'n'
UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger
WHERE tgrelid::regclass::text = ANY(:tables) AND NOT tgisinternal
UNION ALL SELECT attrelid::regclass || ' ' || attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull
    || ' ' || COALESCE(col_description(attrelid, attnum), '') FROM pg_attribute
WHERE attrelid::regclass::text = ANY(:tables) AND attnum > 0 AND NOT attisdropped
ORDER BY 1"""
_BY_MONTH = ["generation_requests", "submissions", "error_logs", "poll_tasks", "callbacks", "output_spool"]


_TRIES = sa.text("""
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE 'LOCK TABLE%' AND wait_event_type = 'Lock'""")


def _shape(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.text(_SHAPE), {"tables": _BY_MONTH}).scalars())


def _written(connection: sa.Connection) -> list[str]:
    sql = " UNION ALL ".join(f"SELECT id FROM {table}" for table in (*_BY_MONTH[:3], "callbacks"))
    return sorted(connection.execute(sa.text(sql)).scalars())


def test_rows_lie_by_month_and_go_back_as_they_were(database_url: str, connection: sa.Connection) -> None:
    command.downgrade(migrate.config(connection), "0013")
    before = _shape(connection)
    older, newer = new_id("gen"), new_id("gen")
    connection.execute(sa.text(_GENERATION), {"id": older, "continues_id": None})
    connection.execute(sa.text(_GENERATION), {"id": newer, "continues_id": older})
    connection.execute(sa.text(_SUBMISSION), {"id": new_id("sub"), "generation_id": newer})
    connection.execute(sa.text(_ERROR))
    connection.commit()
    written = _written(connection)
    connection.commit()
    migrate.upgrade(database_url)
    assert _written(connection) == written
    # A trigger of before still follows: a change is told.
    connection.execute(
        sa.text("UPDATE generation_requests SET state = 'PROCESSING', provider_task_id = 't' WHERE id = :id"),
        {"id": newer},
    )
    told = connection.execute(sa.text("SELECT generation_id FROM callbacks")).scalars()
    assert list(told) == [newer]
    connection.commit()
    command.downgrade(migrate.config(connection), "0013")
    assert _shape(connection) == before
    assert len(_written(connection)) == len(written) + 1


# What a writer of any of these tables needs.
_WRITE = sa.text("LOCK TABLE generation_requests, submissions, poll_tasks IN ROW EXCLUSIVE MODE")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("revision", "held"),
    [("0013", "submissions"), ("0014", "generation_requests"), ("0014", "submissions"), ("0014", "poll_tasks")],
)
def test_a_migration_waits_for_tables_in_use_without_keeping_others_waiting(
    database_url: str, connection: sa.Connection, revision: str, held: str
) -> None:
    command.downgrade(migrate.config(connection), revision)
    connection.execute(sa.text(f"SELECT count(*) FROM {held}"))
    with ThreadPoolExecutor(2) as threads:
        migrating = threads.submit(migrate.upgrade, database_url)
        others = sa.create_engine(database_url, poolclass=sa.NullPool, connect_args={"options": "-c lock_timeout=900"})
        tries = 0
        try:
            while tries < 3 and not migrating.done():
                with others.connect() as other:
                    tries += other.execute(_TRIES).scalar_one()
                    other.execute(_WRITE)
            assert not migrating.done()
        finally:
            # The end of the block awaits the migration, which awaits this lock.
            connection.rollback()
        migrating.result(timeout=60)
    assert migrate.is_ready(database_url)


def test_a_migration_that_was_cut_off_is_run_again(database_url: str, connection: sa.Connection) -> None:
    command.downgrade(migrate.config(connection), "0013")
    connection.execute(sa.text("CREATE INDEX ix_submissions_id ON submissions (id)"))
    # What a build that was cut off leaves behind.
    connection.execute(
        sa.text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_submissions_id'::regclass")
    )
    connection.execute(sa.text("ALTER TABLE error_logs ADD CONSTRAINT ck_error_logs_first CHECK (id < 'log_00')"))
    connection.commit()
    migrate.upgrade(database_url)
    assert migrate.is_ready(database_url)
    context = MigrationContext.configure(connection, opts=_COMPARED)
    assert compare_metadata(context, metadata) == []


_UNFINISHED = """
SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid
UNION ALL SELECT conname FROM pg_constraint WHERE NOT convalidated"""
# Where a run was cut off: between a check and its validation, and while the index of a partition was built.
_CUT_OFF = """
ALTER TABLE submissions ADD COLUMN billing text;
ALTER TABLE submissions ADD CONSTRAINT ck_submissions_billing
    CHECK (billing IN ('BILLED', 'NOT_BILLED', 'COUNTED', 'CONTINUED')) NOT VALID;
ALTER TABLE generation_requests ADD COLUMN is_late boolean NOT NULL DEFAULT 'false', ADD COLUMN rerun_of_id text;
CREATE INDEX ix_generation_requests_rerun ON ONLY generation_requests (rerun_of_id) WHERE rerun_of_id IS NOT NULL;
CREATE INDEX ix_generation_requests_first_rerun ON generation_requests_first (rerun_of_id)
    WHERE rerun_of_id IS NOT NULL;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_generation_requests_first_rerun'::regclass;
SELECT make_month('generation_requests', 'generation_requests_2999_01', 'gen_x', 'gen_y')"""


def test_indexes_and_checks_of_partitioned_tables_are_finished_by_the_next_run(
    database_url: str, connection: sa.Connection
) -> None:
    wanted = _shape(connection)
    command.downgrade(migrate.config(connection), "0014")
    connection.exec_driver_sql(_CUT_OFF)
    connection.commit()
    unfinished = set(connection.execute(sa.text(_UNFINISHED)).scalars())
    connection.commit()
    assert unfinished == {
        "ck_submissions_billing",
        "ix_generation_requests_first_rerun",
        "ix_generation_requests_rerun",
    }
    migrate.upgrade(database_url)
    assert connection.execute(sa.text(_UNFINISHED)).scalars().all() == []
    assert _shape(connection) == wanted
    attached = connection.execute(
        sa.text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'ix_generation_requests_rerun'::regclass")
    )
    assert attached.scalar_one() == len(["first", "rest", "2999_01"])


class _CutOff(Exception):
    """The migration was cut off."""


@contextmanager
def _cut_off_after(statements: int) -> Iterator[None]:
    """Raise _CutOff in place of the statement that follows so many others which change or lock something."""
    seen = itertools.count()

    def check(_: Any, __: Any, statement: str, *___: Any) -> None:
        if not statement.lstrip().startswith(("SELECT", "SHOW", "INSERT")) and next(seen) >= statements:
            raise _CutOff

    sa.event.listen(sa.Engine, "before_cursor_execute", check)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", check)


def test_a_migration_that_was_cut_off_anywhere_is_finished_by_the_next_run(
    database_url: str, connection: sa.Connection
) -> None:
    wanted = _shape(connection)
    command.downgrade(migrate.config(connection), "0014")
    connection.commit()
    for statements in itertools.count(1, 6):
        with suppress(_CutOff), _cut_off_after(statements):
            migrate.upgrade(database_url, "0015")
            break
    assert statements > 60, "all tables have been altered by then"
    migrate.upgrade(database_url)
    assert connection.execute(sa.text(_UNFINISHED)).scalars().all() == []
    assert _shape(connection) == wanted


def test_a_downgrade_forgets_resolutions_that_older_versions_refuse(connection: sa.Connection) -> None:
    connection.execute(sa.text(_SUBMISSION), {"id": "sub_1", "generation_id": "gen_1"})
    resolve = (
        "UPDATE submissions SET state = 'ACCEPTED', ended_at = now(), resolution = 'ATTACHED', resolved_at = now()"
    )
    connection.execute(sa.text(resolve))
    connection.commit()
    command.downgrade(migrate.config(connection), "0014")
    assert connection.execute(sa.text("SELECT resolution, resolved_at FROM submissions")).one() == (None, None)


@pytest.mark.parametrize(
    "broken",
    [
        "state = 'DONE'",
        "state = 'SUCCESS', ended_at = NULL",
        "state = 'PENDING', ended_at = now()",
        "state = 'FAILED', ended_at = now(), error = NULL",
        "state = 'SUCCESS', ended_at = now(), outputs = NULL",
        "state = 'PROCESSING', provider_task_id = NULL",
        "number_of_outputs = 11",
        "priority = 10",
    ],
)
def test_the_database_itself_refuses_what_cannot_be(connection: sa.Connection, broken: str) -> None:
    connection.execute(
        sa.text("""
            INSERT INTO generation_requests (id, state, model_identifier, provider_id, media_type, prompt,
                number_of_outputs, when_uncertain, request_id)
            VALUES ('gen_1', 'PENDING', 'm', 'p', 'image', 'x', 1, 'fail', 'req_1')""")
    )
    with pytest.raises(sa.exc.IntegrityError):
        connection.execute(sa.text(f"UPDATE generation_requests SET {broken}"))
