"""What all tables are made with: names of constraints, columns of time, lists of words."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sqlalchemy import Column, DateTime, MetaData, func

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# A row in flight is updated some six times within minutes, and then never again. So dead rows are vacuumed after some
# thousand rows, without pauses, and the planner has statistics of a new month after some minutes.
WORK_STORAGE: Final = {
    "fillfactor": "85",
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "2000",
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_analyze_threshold": "200",
    "autovacuum_vacuum_cost_delay": "0",
}


def one_of(column: str, words: type[StrEnum]) -> str:
    """A check that a column holds one of the words."""
    return f"{column} IN ({', '.join(repr(word.value) for word in words)})"


def time(name: str, comment: str, *, required: bool = False, now: bool = False, key: bool = False) -> Column[object]:
    """A column of points in time; `now`: what the row is inserted with; `key`: part of the primary key."""
    return Column(
        name,
        DateTime(timezone=True),
        primary_key=key,
        nullable=not (required or key),
        server_default=func.now() if now else None,
        comment=comment,
    )
