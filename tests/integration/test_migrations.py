from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from libs.common.database import migrate
from libs.common.database.all_tables import metadata
from libs.common.database.partitioning import is_compared
from sandbox.processes import free_port
from tests.support.infrastructure import Infrastructure


@pytest.fixture
def connection(database_url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    with engine.connect() as found:
        yield found


def test_the_migrations_make_the_tables_that_the_code_uses(connection: sa.Connection) -> None:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "include_name": is_compared}
    )
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
