"""Which generations a dispatcher claims, and in which order, in fixed arrangements of keys, priorities and limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from libs.common.catalog import Provider
from libs.common.database.engine import Database
from libs.common.database.records_dispatch import ClaimedGeneration
from services.dispatcher import limits
from tests.differential.clocked import advance, clocked_database
from tests.differential.projection import Snapshot, claimed_id, forget_work, make_older, snapshot
from tests.differential.recording import Part, Row, Rows, Tell
from tests.support.catalogs import PROVIDER
from tests.support.dispatchers import Dispatcher
from tests.support.rows import insert, new_generation, opened

Given = tuple[str, int, dict[str, Any]]
"""A key, how many generations it has, and their fields."""


class _Queue:
    """A queue of one provider account that a dispatcher claims from.

    Args:
        database: with nothing waiting.
        account_limits: the limits of the account, as the catalog has them.
    """

    def __init__(self, database: Database, account_limits: dict[str, Any] | None = None) -> None:
        self.database = database
        self.dispatcher = Dispatcher(database)
        self._provider = Provider.model_validate({**PROVIDER.model_dump(mode="json"), "limits": account_limits or {}})
        self._names: dict[str, str] = {}

    async def wait(self, *given: Given, age_seconds: float = 0.0) -> None:
        """Add waiting generations that were accepted `age_seconds` ago."""
        for key, count, fields in given:
            made = [new_generation(api_key_id=f"key_{key}", **fields) for _ in range(count)]
            before = sum(name.startswith(f"{key} ") for name in self._names.values())
            self._names |= {one.id: f"{key} {number}" for number, one in enumerate(made, start=before + 1)}
            await insert(self.database, made)
            if age_seconds:
                await make_older(self.database, [one.id for one in made], age_seconds)

    async def claim(self, places: int) -> list[str]:
        """Claim within the limits, and return the names of what was claimed: its key and its number there."""
        found = await self.claimed(places)
        await advance(self.database, 0.001)
        return sorted((self._names[claimed_id(one)] for one in found), key=_by_number)

    async def claims(self, count: int, places: int = 1) -> list[str]:
        """Claim `count` times; the names of each claim are joined by a plus."""
        return [" + ".join(await self.claim(places)) for _ in range(count)]

    async def claimed(self, places: int) -> Sequence[ClaimedGeneration]:
        """Claim within the limits, and return the claims."""
        return await self.dispatcher.claims.claim(
            [self._provider.id], lambda account: limits.grant(account, self._provider, places)
        )

    async def snapshot(self) -> Snapshot:
        """Read the canonical rows."""
        return await snapshot(self.database)


def _by_number(name: str) -> tuple[str, int]:
    key, _, number = name.rpartition(" ")
    return key, int(number)


async def _few_beside_a_crowd(database: Database) -> Row:
    """A key with 10 generations comes when 200 of another wait; a third comes later."""
    queue = _Queue(database)
    await queue.wait(("crowd", 200, {}))
    before = await queue.claims(5)
    await queue.wait(("few", 10, {}))
    meanwhile = await queue.claims(8)
    await queue.wait(("late", 3, {}))
    return {"alone": before, "two_keys": meanwhile, "three_keys": await queue.claims(20)}


async def _places_of_one_claim(database: Database) -> Row:
    """Seven keys with 1 to 7 generations; each claim has 10 places."""
    queue = _Queue(database)
    await queue.wait(*((chr(ord("a") + number), number + 1, {}) for number in range(7)))
    return {"claims": await queue.claims(4, places=10)}


async def _priority_and_age(database: Database) -> Row:
    """Priorities 0 to 9 of one key; then each minute of age is worth one step of priority."""
    queue = _Queue(database)
    await queue.wait(*(("one", 1, {"priority": priority}) for priority in (0, 5, 9, 3, 7)))
    fresh = await queue.claims(5)
    for age_seconds in (0, 59, 61, 300, 539, 541, 600):
        await queue.wait(("old", 1, {"priority": 0}), age_seconds=age_seconds)
    for priority in (9, 5, 1):
        await queue.wait(("old", 1, {"priority": priority}))
    return {"by_priority": fresh, "by_priority_and_age": await queue.claims(11)}


async def _priority_does_not_pass_other_keys(database: Database) -> Row:
    """A key with the highest priority beside one with the lowest."""
    queue = _Queue(database)
    await queue.wait(("loud", 5, {"priority": 9}), ("quiet", 5, {"priority": 0}))
    return {"claims": await queue.claims(10)}


async def _limit_of_concurrent_tasks(database: Database) -> Row:
    """An account with a limit of 3 tasks at once; released claims free their slots."""
    queue = _Queue(database, {"concurrent_tasks": 3})
    await queue.wait(("a", 4, {}), ("b", 4, {}))
    first = await queue.claimed(10)
    full = await queue.claims(1, places=10)
    await queue.dispatcher.claims.give_back([one.claim for one in first[:2]])
    return {"first": len(first), "full": full, "after_two_were_given_back": len(await queue.claimed(10))}


async def _limit_of_daily_spend(database: Database) -> Row:
    """An account that may spend 1 USD a day; prices that do not add up to it."""
    queue = _Queue(database, {"daily_spend_usd": 1.0})
    await queue.wait(("a", 3, {"expected_cost_usd": 0.3}), ("b", 3, {"expected_cost_usd": 0.0499999}))
    claims = await queue.claims(3, places=2)
    spent = (await queue.snapshot())["accounts"]["bfl"]["spent_today_micros"]
    await advance(database, 86_400)
    return {"claims": claims, "spent_micros": spent, "next_day": await queue.claims(2, places=5)}


async def _limit_of_rate(database: Database) -> Row:
    """An account with 120 requests a minute: two a second, and as many at once."""
    queue = _Queue(database, {"requests_per_minute": 120})
    await queue.wait(("a", 10, {}), ("b", 10, {}))
    found = []
    for wait_seconds in (0.0, 0.4, 0.2, 1.0, 5.0):
        await advance(database, wait_seconds)
        found.append({"after_seconds": wait_seconds, "claims": await queue.claims(1, places=10)})
    return {"claims": found}


async def _retries_wait(database: Database) -> Row:
    """Claims that are given back keep their place in the queue and do not count as attempts."""
    queue = _Queue(database)
    await queue.wait(("a", 3, {}), ("b", 3, {}))
    first = await queue.claimed(2)
    await queue.dispatcher.claims.give_back([one.claim for one in first])
    again = await queue.claims(4)
    attempts = sorted({row["attempts"] for row in (await queue.snapshot())["generations"].values()})
    return {"first": len(first), "again": again, "attempts": attempts}


ARRANGEMENTS: tuple[Callable[[Database], Awaitable[Row]], ...] = (
    _few_beside_a_crowd,
    _places_of_one_claim,
    _priority_and_age,
    _priority_does_not_pass_other_keys,
    _limit_of_concurrent_tasks,
    _limit_of_daily_spend,
    _limit_of_rate,
    _retries_wait,
)


def record(tell: Tell) -> Rows:
    """Record a row for each arrangement."""
    with clocked_database() as url:
        return asyncio.run(_record(url, tell))


async def _record(url: str, tell: Tell) -> Rows:
    found: Rows = {}
    async with opened(url) as database:
        for arrangement in ARRANGEMENTS:
            await forget_work(database)
            name = arrangement.__name__.strip("_").replace("_", " ")
            tell(name)
            found[name] = await arrangement(database)
    return found


PART = Part("fairness", record)
