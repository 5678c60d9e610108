"""What tests of client calls look at in the database."""

from __future__ import annotations

from libs.common.database.engine import Database
from tests.support.rows import rows

_WAITING = """
SELECT count(*) AS waiting FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


async def made_generations(database: Database) -> list[str]:
    """The ids of all generations, in the order in which they were created."""
    return [row["id"] for row in await rows(database, "SELECT id FROM generation_requests ORDER BY id")]


async def is_waiting(database: Database, number: int = 1) -> bool:
    """Whether so many statements wait for locks."""
    return int((await rows(database, _WAITING))[0]["waiting"]) >= number
