"""Tables by month: which they are, what their partitions are called and where these begin and end.

Ids sort by the time they were made, so a month is a range of ids: who looks for an id looks into one partition, and a
month is forgotten by dropping a table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from libs.common.ids import Prefix, first_id

# The first month or two of a database, and what comes for a month that has no partition: nothing is ever refused.
FIRST: Final = "first"
REST: Final = "rest"
_NAME = re.compile(rf"_(?:\d{{4}}_\d{{2}}|{FIRST}|{REST})$")


@dataclass(frozen=True, slots=True)
class PartitionedTable:
    """A table whose rows lie in one partition for each month.

    Args:
        name: of the table.
        column: the id that says which month a row belongs to.
        prefix: of that id.
    """

    name: str
    column: str
    prefix: Prefix

    def partition(self, month: datetime) -> str:
        """The name of a month's partition."""
        return f"{self.name}_{month:%Y_%m}"

    def bound(self, at: datetime) -> str:
        """What all ids from then on sort after."""
        return first_id(self.prefix, at)


GENERATIONS: Final = PartitionedTable("generation_requests", "id", "gen")
SUBMISSIONS: Final = PartitionedTable("submissions", "generation_id", "gen")
ERRORS: Final = PartitionedTable("error_logs", "id", "log")
TABLES: Final = (GENERATIONS, SUBMISSIONS, ERRORS)


def is_partition(name: str) -> bool:
    """Whether a table of that name is a partition of one of the tables."""
    return any(name.startswith(table.name) and _NAME.fullmatch(name[len(table.name) :]) for table in TABLES)


def is_compared(name: str | None, kind: str, _: object) -> bool:
    """Whether Alembic is to compare what it finds in a database: not partitions, which come and go."""
    return not (kind == "table" and name is not None and is_partition(name))


def month_of(at: datetime, *, later: int = 0) -> datetime:
    """When the month of that time began, in UTC; or one so many months `later`."""
    months = at.astimezone(UTC).year * 12 + at.astimezone(UTC).month - 1 + later
    return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
