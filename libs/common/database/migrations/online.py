"""What migrations of large tables are made of, so that whoever works on these meanwhile hardly waits.

Nothing here holds a lock that others wait for while it reads a table: indexes are built concurrently, constraints are
validated after they are in force, and a lock on whole tables is asked for again and again, each time for so short that
no queue forms behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from alembic import op
from psycopg2.errorcodes import LOCK_NOT_AVAILABLE

# Shorter than Postgres' deadlock_timeout (1 s): where two wait for each other, the migration always gives way.
_LOCK_SECONDS = 0.5
_PAUSE_SECONDS = 1.0
_TRIES = 600


def execute(sql: str) -> None:
    """Run a statement as it stands, colons and all."""
    op.get_bind().exec_driver_sql(sql.replace("%", "%%"))


def index_concurrently(name: str, definition: str, *, unique: bool = False) -> None:
    """Build an index outside of a transaction. One that an earlier try left unfinished is built anew."""
    unfinished = "SELECT FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"
    if op.get_bind().execute(sa.text(unfinished), {"name": name}).all():
        execute(f"DROP INDEX CONCURRENTLY {name}")
    execute(f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY IF NOT EXISTS {name} ON {definition}")


def declare_partitioned_index(name: str, table: str, definition: str) -> None:
    """Create the index of a partitioned table without the indexes of its partitions. No row is read.

    The index is invalid until `attach_partition_indexes` has attached an index of each partition. Partitions created
    from now on get theirs attached by Postgres. Call it within `locked`: the statement takes a SHARE lock.

    Args:
        name: of the index. Nothing is done if it exists.
        table: the partitioned table.
        definition: what follows the table in CREATE INDEX: columns and predicate.
    """
    execute(f"CREATE INDEX IF NOT EXISTS {name} ON ONLY {table} {definition}")


def index_partitions_concurrently(name: str, table: str, definition: str) -> None:
    """Build the index of each partition that has none attached, outside of a transaction.

    Arguments as of `declare_partitioned_index`, which comes first. A partition's index is named as the table's, with
    the partition in the table's place. An index that an earlier run left invalid is rebuilt.

    Raises sqlalchemy.exc.ProgrammingError if a partition is dropped during the build: run the migration again.
    """
    for partition_name in _partitions_without_index(name, table):
        index_concurrently(_partition_index(name, table, partition_name), f"{partition_name} {definition}")


def attach_partition_indexes(name: str, table: str) -> None:
    """Attach the index of each partition to the table's index, which thereby becomes valid. No row is read.

    Call it within `locked`: the statement locks each partition's index against all queries.

    Raises sqlalchemy.exc.ProgrammingError if a partition has no index: `index_partitions_concurrently` builds it.
    """
    for partition_name in _partitions_without_index(name, table):
        execute(f"ALTER INDEX {name} ATTACH PARTITION {_partition_index(name, table, partition_name)}")


def _partition_index(name: str, table: str, partition_name: str) -> str:
    return name.replace(table, partition_name, 1)


def _partitions_without_index(name: str, table: str) -> list[str]:
    """The names of the partitions of `table` of which no index is attached to the index `name`."""
    sql = """
        SELECT p.inhrelid::regclass::text FROM pg_inherits p
        WHERE p.inhparent = CAST(:table AS regclass) AND NOT EXISTS (
            SELECT FROM pg_inherits a JOIN pg_index i ON i.indexrelid = a.inhrelid
            WHERE a.inhparent = CAST(:name AS regclass) AND i.indrelid = p.inhrelid)
        ORDER BY 1"""
    return list(op.get_bind().execute(sa.text(sql), {"name": name, "table": table}).scalars())


@contextmanager
def locked(tables: Sequence[str]) -> Iterator[None]:
    """Within it nobody else reads or writes the tables, until the transaction ends.

    Raises sqlalchemy.exc.OperationalError where they are never free for a moment in ten minutes.
    """
    for tries_left in reversed(range(_TRIES)):
        savepoint = op.get_bind().begin_nested()
        try:
            execute(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
            execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
            break
        except sa.exc.OperationalError as error:
            savepoint.rollback()
            if tries_left == 0 or getattr(error.orig, "pgcode", None) != LOCK_NOT_AVAILABLE:
                raise
            time.sleep(_PAUSE_SECONDS)
    execute("SET LOCAL lock_timeout = 0")
    yield


def partition(table: str, column: str, bound: str) -> None:
    """Make a locked table the first partition, up to `bound`, of one of its name, indexes, triggers and columns.

    It must have the constraint `ck_{table}_first`, which says that nothing is beyond. No row is read.
    """
    first = f"{table}_first"
    before = _Made.read(table)
    before.take_off(table, "_first")
    execute(f"ALTER TABLE {table} RENAME TO {first}")
    _like(first, table, f" PARTITION BY RANGE ({column})")
    execute(f"ALTER TABLE {table} DROP CONSTRAINT ck_{table}_first")
    execute(f"ALTER TABLE {table} ATTACH PARTITION {first} FOR VALUES FROM (MINVALUE) TO ('{bound}')")
    execute(f"ALTER TABLE {first} DROP CONSTRAINT ck_{table}_first")
    before.put_on(table)


def merge(table: str) -> None:
    """Make a locked table with partitions one without, of its name, rows, indexes, triggers and columns."""
    before = _Made.read(table)
    before.take_off(table, "_by_month")
    execute(f"ALTER TABLE {table} RENAME TO {table}_by_month")
    _like(f"{table}_by_month", table, "")
    execute(f"INSERT INTO {table} TABLE {table}_by_month")
    execute(f"DROP TABLE {table}_by_month")
    before.put_on(table)


def _like(table: str, made: str, then: str) -> None:
    execute(
        f"CREATE TABLE {made} (LIKE {table} INCLUDING COMMENTS INCLUDING CONSTRAINTS INCLUDING DEFAULTS"
        f" INCLUDING GENERATED INCLUDING STORAGE){then}"
    )


@dataclass(frozen=True, slots=True)
class _Made:
    """What a table has beside its columns and checks, each by its name with its definition."""

    constraints: Mapping[str, str]
    indexes: Mapping[str, str]
    triggers: Mapping[str, str]

    @classmethod
    def read(cls, table: str) -> _Made:
        return cls(
            _definitions(
                "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE conrelid = CAST(:table AS regclass) AND contype IN ('p', 'u', 'f')"
                " ORDER BY contype DESC, conname",
                table,
            ),
            _definitions(
                "SELECT i.indexrelid::regclass::text, replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ')"
                " FROM pg_index i WHERE i.indrelid = CAST(:table AS regclass) AND NOT EXISTS ("
                " SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.conrelid = i.indrelid) ORDER BY 1",
                table,
            ),
            _definitions(
                "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = CAST(:table AS regclass)"
                " AND NOT tgisinternal ORDER BY tgname",
                table,
            ),
        )

    def take_off(self, table: str, suffix: str) -> None:
        """Drop the triggers, and leave its name to what will be made in place of each of the others."""
        for name in self.triggers:
            execute(f"DROP TRIGGER {name} ON {table}")
        for name in self.constraints:
            execute(f"ALTER TABLE {table} RENAME CONSTRAINT {name} TO {name}{suffix}")
        for name in self.indexes:
            execute(f"ALTER INDEX {name} RENAME TO {name}{suffix}")

    def put_on(self, table: str) -> None:
        """Make all of it again. An index or a key that a partition has already is taken as it is."""
        for name, definition in self.constraints.items():
            execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        for definition in (*self.indexes.values(), *self.triggers.values()):
            execute(definition)


def _definitions(sql: str, table: str) -> dict[str, str]:
    rows = op.get_bind().execute(sa.text(sql), {"table": table})
    return {str(name): str(definition) for name, definition in rows}
