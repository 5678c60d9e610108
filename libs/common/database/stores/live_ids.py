"""Where what is under way lies among the ids of all generations."""

from __future__ import annotations

from datetime import datetime, timedelta

from libs.common.database.engine import Database
from libs.common.database.ranges import IdRange
from libs.common.database.states import TERMINAL, State
from libs.common.database.stores.sets import statement
from libs.common.ids import first_id, made_at

# A batch is handed in for hours, and what depends on others of it looks at them though they have ended; a clock may be
# wrong by a while.
_BEFORE = timedelta(days=2)
_AFTER = timedelta(days=1)
_OLDEST = "\n    UNION ALL ".join(
    f"(SELECT id FROM generation_requests WHERE state = '{state}' ORDER BY id LIMIT 1)"
    for state in State
    if state not in TERMINAL
)
_LOOK = statement(f"""
SELECT now() AS at, (SELECT max(id) FROM generation_requests) AS newest_id,
    (SELECT min(id) FROM (
    {_OLDEST}) AS oldest) AS oldest_id""")


LOOK_SECONDS = 60.0


async def follow(database: Database) -> bool:
    """Look, and have all statements on this database look there. One iteration of a loop."""
    database.live_ids.hear(await look(database))
    return False


async def look(database: Database) -> IdRange:
    """The range that has all that is under way, and what will come within a day."""
    found = await database.transaction("find_live_ids", lambda c: c.execute(_LOOK).one())
    oldest = first_id("gen", min(found.at, _made_at(found.oldest_id, found.at)) - _BEFORE)
    newest = first_id("gen", found.at + _AFTER)
    return IdRange(min(oldest, found.oldest_id or oldest), max(newest, found.newest_id or newest))


def _made_at(generation_id: str | None, otherwise: datetime) -> datetime:
    try:
        return made_at(generation_id) if generation_id is not None else otherwise
    except ValueError:
        return otherwise
