from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
import sqlalchemy as sa

from libs.common.database import migrate
from libs.common.database.schema.all_tables import metadata
from libs.common.database.schema.triggers import replace_triggers
from sandbox.processes import free_port
from tests.support.infrastructure import Infrastructure

# What is in the schema, by its definition; partitions come and go.
_SHAPE = """
SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN kept ON kept.oid = tgrelid
WHERE NOT tgisinternal
UNION ALL SELECT 'index ' || pg_get_indexdef(indexrelid) FROM pg_index JOIN kept ON kept.oid = indrelid
UNION ALL SELECT 'constraint ' || relname || ' ' || conname || ' ' || pg_get_constraintdef(c.oid)
FROM pg_constraint c JOIN kept ON kept.oid = conrelid
UNION ALL SELECT concat_ws(' ', 'table', relname, relpersistence, reloptions, pg_get_partkeydef(oid),
    obj_description(oid, 'pg_class')) FROM kept
UNION ALL SELECT concat_ws(' ', 'column', relname, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,
    pg_get_expr(adbin, adrelid), col_description(attrelid, attnum))
FROM pg_attribute JOIN kept ON kept.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped"""
_KEPT = """
WITH kept AS (
    SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
        AND relname <> 'alembic_version'
)"""


@pytest.fixture
def connection(database_url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    with engine.connect() as found:
        yield found


@pytest.fixture
def new_url(shared: Infrastructure) -> Iterator[str]:
    """The URL of an empty database."""
    name = f"empty_{uuid4().hex}"
    yield shared.postgres.create_database(name)
    shared.postgres.drop_database(name)


def _shape(connection: sa.Connection) -> set[str]:
    return set(connection.execute(sa.text(_KEPT + _SHAPE)).scalars())


def test_the_migrations_make_the_schema_that_is_declared(connection: sa.Connection, new_url: str) -> None:
    with sa.create_engine(new_url, poolclass=sa.NullPool).begin() as declared:
        metadata.create_all(declared)
        replace_triggers(declared)
        assert _shape(connection) == _shape(declared)


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


def test_who_waits_for_the_schema_waits_for_what_it_needs(new_url: str) -> None:
    assert not migrate.is_ready(new_url)
    assert not migrate.wait(new_url, 0)
    migrate.upgrade(new_url)
    assert migrate.is_ready(new_url)
    assert migrate.wait(new_url, 0)


def test_a_newer_schema_is_left_as_it_is(database_url: str, connection: sa.Connection) -> None:
    connection.execute(sa.text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    connection.commit()
    assert migrate.is_ready(database_url)
    migrate.upgrade(database_url)
    assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == "from_the_future"


def test_a_database_that_is_away_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    assert not migrate.wait(f"postgresql+psycopg2://x:y@127.0.0.1:{free_port()}/x", 0)


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
