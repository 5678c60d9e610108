"""The monitor's questions over as many generations as are asked for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from time import perf_counter

from rich.table import Table

from bench.monitor.plans import Asked, explain
from bench.monitor.rows import fill
from bench.place import Place
from libs.common.database import migrate
from libs.common.database.engine import Database
from libs.common.database.stores.alerts import AlertStore, Decision
from libs.common.database.stores.errors import ErrorStore
from libs.common.database.stores.instances import InstanceStore
from libs.common.database.stores.statistics import StatisticsStore
from services.monitor.statistics import Statistics

_RANGES = {
    "an hour": timedelta(hours=1),
    "a day": timedelta(days=1),
    "a month": timedelta(days=30),
    "all": timedelta(days=4_000),
}
_FOLD = 100_000


async def ask_all(database: Database) -> list[Asked]:
    """Ask what rules, statistics, metrics and health ask."""
    counts = StatisticsStore(database)
    statistics = Statistics(counts, counts, ErrorStore(database), InstanceStore(database))
    alerts = AlertStore(database, owner="bench")
    now = datetime.now(UTC)
    found = await explain(
        database,
        "rules",
        lambda: alerts.evaluate(lambda _: Decision(), windows=(3_600,), repeat_windows=(3_600,), patience_seconds=60),
    )
    for name, back in _RANGES.items():
        found += await explain(database, f"statistics of {name}", partial(statistics.stats, now - back, now))
    for name, ask in (
        ("metrics: totals", counts.totals),
        ("metrics: states", counts.states),
        ("metrics: queues", counts.queues),
        ("health: tasks", counts.tasks),
        ("health: lease holders", counts.holders),
    ):
        found += await explain(database, name, ask)
    return found


def table(found: list[Asked], generations: int) -> Table:
    """Each question's slowest statement."""
    made = Table(
        title=f"{generations:,} generations", box=None, pad_edge=False, header_style="bold", title_justify="left"
    )
    made.add_column("question")
    made.add_column("all of it", justify="right")
    made.add_column("slowest", justify="right")
    made.add_column("its way", overflow="fold")
    made.add_column("tables read whole")
    for question in dict.fromkeys(asked.question for asked in found):
        of_it = [asked for asked in found if asked.question == question]
        slowest = max(of_it, key=lambda asked: asked.milliseconds)
        whole = sorted({name for asked in of_it for name in asked.sequential})
        made.add_row(
            question,
            f"{sum(asked.milliseconds for asked in of_it):,.1f} ms",
            f"{slowest.milliseconds:,.1f} ms",
            ", ".join(slowest.scans),
            ", ".join(whole) or "none",
        )
    return made


async def scale(where: Place, generations: int) -> Table:
    """Fill a database, let the monitor add up what it finds, and ask."""
    url = where.postgres.create_database("monitor")
    migrate.upgrade(url)
    plain = url.replace("postgresql+psycopg2", "postgresql")
    await asyncio.to_thread(fill, plain, generations, where.tell)
    database = Database(url, size=2, statement_timeout_seconds=600, application_name="bench")
    try:
        counts, began, folded = StatisticsStore(database), perf_counter(), 0
        while number := await counts.fold(_FOLD):
            folded += number
        where.tell(f"{folded:,} lines added up, {folded / (perf_counter() - began):,.0f} a second")
        await database.transaction("analyze", lambda c: c.exec_driver_sql("ANALYZE statistics"))
        return table(await ask_all(database), generations)
    finally:
        await database.close()
