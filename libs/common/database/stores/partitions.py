"""The months of large tables: made ahead of time, and dropped when they are too old."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.partitioning import (
    ERRORS,
    GENERATIONS,
    REST,
    SUBMISSIONS,
    TABLES,
    PartitionedTable,
    month_of,
)
from libs.common.database.states import TERMINAL
from libs.common.database.stores.billing import count_forgotten
from libs.common.database.stores.sets import statement
from libs.common.ids import first_id, made_at

T = TypeVar("T")

# Whoever waits for a table lets everybody else wait behind: so not for long, and again in the next turn.
_BRIEFLY = statement("SET LOCAL lock_timeout = '500ms'")
_LOCK = statement("SELECT pg_try_advisory_xact_lock(hashtext('darkroom.months'))")
_NOW = statement("SELECT now()")
_PARTITIONS = statement(r"""
SELECT p.relname AS name, substring(pg_get_expr(p.relpartbound, p.oid) FROM 'TO \(''([^'']+)''\)') AS ends_before
FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid
WHERE i.inhparent = to_regclass(:table) ORDER BY ends_before""")
# What has not succeeded has an index by state; the second condition says that it serves.
_LIVE = statement("""
SELECT id FROM generation_requests WHERE id < :before AND state <> ALL(:terminal) AND state <> 'SUCCESS' LIMIT 1""")

# What refers to a generation, and what came for a month that had no partition: by rows, some at a time.
_REFERRING = tuple(
    statement(f"""
DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {column} < :before LIMIT :limit))""")
    for table, column in (
        ("poll_tasks", "generation_id"),
        ("callbacks", "generation_id"),
        ("generation_ratings", "generation_id"),
        ("output_spool", "generation_id"),
    )
)
_OLD_REST = {
    table: statement(f"""
DELETE FROM {table.name} WHERE {table.column} = ANY(ARRAY(
    SELECT {table.column} FROM {table.name}
    WHERE {table.column} < :before AND tableoid = to_regclass('{table.name}_{REST}') LIMIT :limit))""")
    for table in TABLES
}
_MAKE = statement("SELECT make_month(:parent, :part, :begins_at, :ends_before)")
_DROP = statement("SELECT drop_month(:parent, :part)")
_EMPTY_BATCHES = statement("""
WITH empty AS (
    SELECT b.id FROM generation_batches b
    WHERE b.id < :before AND b.ended_at IS NOT NULL
        AND NOT EXISTS (SELECT FROM generation_requests g WHERE g.batch_id = b.id)
    ORDER BY b.id LIMIT :limit FOR UPDATE SKIP LOCKED
), told AS (
    DELETE FROM callbacks WHERE batch_id IN (SELECT id FROM empty)
), depending AS (
    DELETE FROM batch_dependencies WHERE batch_id IN (SELECT id FROM empty)
)
SELECT id FROM empty""")
_FORGET_BATCHES = statement("DELETE FROM generation_batches WHERE id = ANY(:ids)")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What a turn has forgotten.

    Args:
        rows: deleted one by one.
        partitions: dropped, by name.
        live_id: a generation so old that is under way still: its month stays until it has ended.
        counted: submissions whose money at risk was counted as spent; they are forgotten in later turns.
    """

    rows: int = 0
    counted: int = 0
    partitions: tuple[str, ...] = ()
    live_id: str | None = None


class PartitionStore:
    """Makes and drops partitions. Replicas may do it at once: one of them does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def extend(self, months: int) -> list[str]:
        """Make what is missing for this month and so many more; the names of what was made.

        A month for which rows have come already has none: they stay with what has no partition.
        Raises GenerationError SERVICE_UNAVAILABLE where a table is not free for a moment; what was made stays.
        """
        made = []
        for table in TABLES:
            for later in range(months + 1):
                name = await self._alone("make_partition", partial(_make, table=table, later=later))
                made += [name] if name else []
        return made

    async def ends(self) -> dict[str, datetime]:
        """Until when each table has partitions, by its name."""

        def work(c: Connection) -> dict[str, datetime]:
            return {table.name: made_at(max(_bounds(c, table).values()) + "0" * 16) for table in TABLES}

        return await self._database.transaction("read_partitions", work)

    async def forget_generations(self, *, days: int, limit: int) -> Forgotten:
        """Forget generations of months that ended so many days ago, with all that refers to them.

        Their money at risk is counted as spent first, so that no sum loses it. At most `limit` rows of each table; when
        there are none left, the oldest month is dropped.
        Raises GenerationError SERVICE_UNAVAILABLE where a table is not free for a moment.
        """

        def work(c: Connection) -> Forgotten:
            old = _oldest(c, GENERATIONS, days)
            if old is None:
                return Forgotten()
            name, before = old
            live = c.execute(_LIVE, {"before": before, "terminal": sorted(TERMINAL)}).scalar_one_or_none()
            if live is not None:
                return Forgotten(live_id=live)
            counted = count_forgotten(c, before=before, limit=limit)
            if counted:
                return Forgotten(counted=counted)
            parameters = {"before": before, "limit": limit}
            old_rows = (*_REFERRING, _OLD_REST[SUBMISSIONS], _OLD_REST[GENERATIONS])
            rows = sum(c.execute(old_row, parameters).rowcount for old_row in old_rows)
            if rows:
                return Forgotten(rows)
            attempts = [part for part, ends_before in _bounds(c, SUBMISSIONS).items() if ends_before <= before]
            for part in attempts:
                _drop(c, SUBMISSIONS, part)
            _drop(c, GENERATIONS, name)
            return Forgotten(partitions=(*attempts, name))

        return await self._alone("forget_generations", work) or Forgotten()

    async def forget_batches(self, *, days: int, limit: int) -> int:
        """Forget at most `limit` batches so old whose generations are forgotten; how many."""

        def work(c: Connection) -> int:
            before = first_id("batch", _now(c) - timedelta(days=days))
            ids = list(c.execute(_EMPTY_BATCHES, {"before": before, "limit": limit}).scalars())
            c.execute(_FORGET_BATCHES, {"ids": ids})
            return len(ids)

        return await self._alone("forget_batches", work) or 0

    async def forget_errors(self, *, days: int, limit: int) -> Forgotten:
        """Forget errors of months that ended so many days ago. As `forget_generations`."""

        def work(c: Connection) -> Forgotten:
            old = _oldest(c, ERRORS, days)
            if old is None:
                return Forgotten()
            name, before = old
            rows = c.execute(_OLD_REST[ERRORS], {"before": before, "limit": limit}).rowcount
            if rows:
                return Forgotten(rows)
            _drop(c, ERRORS, name)
            return Forgotten(partitions=(name,))

        return await self._alone("forget_error_months", work) or Forgotten()

    async def _alone(self, name: str, work: Callable[[Connection], T]) -> T | None:
        def alone(c: Connection) -> T | None:
            c.execute(_BRIEFLY)
            return work(c) if c.execute(_LOCK).scalar_one() else None

        return await self._database.transaction(name, alone)


def _now(c: Connection) -> datetime:
    found: datetime = c.execute(_NOW).scalar_one()
    return found


def _bounds(c: Connection, table: PartitionedTable) -> Mapping[str, str]:
    """Where each partition ends, the oldest first."""
    rows = c.execute(_PARTITIONS, {"table": table.name})
    return {row.name: row.ends_before for row in rows if row.ends_before is not None}


def _oldest(c: Connection, table: PartitionedTable, days: int) -> tuple[str, str] | None:
    """The oldest partition and where it ends, if that was so many days ago."""
    cut = table.bound(_now(c) - timedelta(days=days))
    return next(((name, ends_before) for name, ends_before in _bounds(c, table).items() if ends_before <= cut), None)


def _make(c: Connection, table: PartitionedTable, later: int) -> str | None:
    month, end = (month_of(_now(c), later=later + more) for more in (0, 1))
    made = _bounds(c, table)
    begins_at, ends_before = max(table.bound(month), *made.values()), table.bound(end)
    if begins_at >= ends_before or _has_come(c, table, begins_at, ends_before):
        return None
    name = table.partition(month)
    c.execute(_MAKE, {"parent": table.name, "part": name, "begins_at": begins_at, "ends_before": ends_before})
    return name


def _has_come(c: Connection, table: PartitionedTable, begins_at: str, ends_before: str) -> bool:
    rest = f"""
SELECT FROM {table.name} WHERE {table.column} >= :begins_at AND {table.column} < :ends_before
    AND tableoid = to_regclass('{table.name}_{REST}') LIMIT 1"""
    return bool(c.execute(statement(rest), {"begins_at": begins_at, "ends_before": ends_before}).all())


def _drop(c: Connection, table: PartitionedTable, name: str) -> None:
    c.execute(_DROP, {"parent": table.name, "part": name})
