"""Ids are ranges: a database whose language sorts them by their bytes works, and any other is refused."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from libs.common.database import migrate
from libs.common.database.migrate import WrongOrder
from libs.common.database.partitioning import month_of
from libs.common.database.stores import live_ids
from libs.common.database.stores.partitions import PartitionStore
from libs.common.ids import first_id, new_id
from sandbox.postgres import Postgres
from sandbox.processes import free_port
from tests.support.dispatchers import Dispatcher
from tests.support.rows import insert, new_generation, opened, rows

Create = Callable[[str], str]


@pytest.fixture
async def create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Create]:
    """Creates an empty database that sorts as a language does, and answers its URL."""
    localedef, locales = shutil.which("localedef"), tmp_path / "locales"
    locales.mkdir()
    monkeypatch.setenv("LOCPATH", str(locales))
    postgres = Postgres(tmp_path / "postgres", free_port(), durable=False)

    def made(locale: str) -> str:
        if localedef is None or not Path("/usr/share/i18n/locales", locale).exists():
            pytest.skip(f"the sources of the locale {locale} are not installed")
        subprocess.run([localedef, "-i", locale, "-f", "UTF-8", locales / f"{locale}.UTF-8"], check=True)
        postgres.start()
        engine = sa.create_engine(postgres.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            sql = f"CREATE DATABASE {locale} TEMPLATE template0 LOCALE '{locale}.UTF-8'"
            connection.execute(sa.text(sql))
        engine.dispose()
        return postgres.url_of(locale.lower())

    yield made
    postgres.stop()


@pytest.mark.slow
async def test_language_that_sorts_ids_by_their_bytes_has_its_rows_in_their_months(create: Create) -> None:
    url = create("en_US")
    migrate.upgrade(url)
    next_month = month_of(datetime.now(UTC), later=2)
    now, later = new_id("gen"), f"{first_id('gen', next_month)}{'z' * 16}"
    async with opened(url) as database:
        await PartitionStore(database).extend(3)
        await insert(database, [new_generation(id=one) for one in (now, later)])
        found = await rows(database, "SELECT id, tableoid::regclass::text AS part FROM generation_requests ORDER BY id")
        assert [(row["id"], row["part"]) for row in found] == [
            (now, "generation_requests_first"),
            (later, f"generation_requests_{next_month:%Y_%m}"),
        ]
        database.live_ids.hear(await live_ids.look(database))
        assert {claimed.id for claimed in await Dispatcher(database).claim()} == {now, later}
        plan = await rows(database, "EXPLAIN SELECT 1 FROM generation_requests WHERE id = ANY(:ids)", ids=[now])
        assert not any(f"{next_month:%Y_%m}" in row["QUERY PLAN"] for row in plan)


@pytest.mark.slow
async def test_language_that_sorts_ids_otherwise_is_refused_and_nothing_is_made(create: Create) -> None:
    url = create("da_DK")
    with pytest.raises(WrongOrder, match="da_DK"):
        migrate.upgrade(url)
    async with opened(url) as database:
        assert await rows(database, "SELECT 1 FROM pg_tables WHERE schemaname = 'public'") == []
