"""What the console reads beside what RPCs answer: never more rows than a page needs, however large the tables are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records import GenerationRecord, Json
from libs.common.database.schema.generations import generation_requests
from libs.common.database.states import State
from libs.common.database.stores.generations import READ, GenerationFilter, conditions
from libs.common.database.stores.second_payment import PRICE_USD
from libs.common.database.stores.sets import records, statement

WINDOW = 10_000
"""How many generations are looked through for a page of those that no index leads to."""

_MINUTES = statement("""
SELECT at, sum(count) FILTER (WHERE kind = 'generation_created')::float AS created,
    sum(count) FILTER (WHERE kind = 'generation_ended' AND outcome = 'SUCCESS')::float AS succeeded,
    sum(count) FILTER (WHERE kind = 'generation_ended' AND outcome = 'FAILED')::float AS failed
FROM statistics
WHERE period = 'minute' AND at >= date_trunc('minute', now()) - make_interval(mins => :minutes)
GROUP BY at ORDER BY at""")

_TODAY = statement("""
SELECT provider_id, COALESCE(sum(cost_usd) FILTER (WHERE kind IN ('generation_ended', 'money_spent')), 0) AS spent_usd,
    COALESCE(sum(cost_usd) FILTER (WHERE kind = 'money_at_risk'), 0) AS at_risk_usd
FROM statistics
WHERE period = 'hour' AND at >= date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
    AND kind IN ('generation_ended', 'money_spent', 'money_at_risk')
GROUP BY provider_id""")

_TASK = statement("""
SELECT state, strategy, poll_interval_ms, attempts, retry_count, progress, last_error, next_poll_at, deadline_at,
    created_at, ended_at
FROM poll_tasks WHERE generation_id = :generation_id""")

_INPUTS = statement(f"""
SELECT g.input_images, g.store_attempts, g.released_at, g.when_uncertain, {PRICE_USD} AS price_usd
FROM generation_requests g WHERE g.id = :id""")

_RATING = statement("SELECT rating, feedback, created_at FROM generation_ratings WHERE generation_id = :id")

_FAILURES = statement("""
SELECT error ->> 'code' AS code, was_submitted, min(error ->> 'message') AS message, count(*) AS number
FROM (SELECT error, attempts > 0 AS was_submitted FROM generation_requests g
    WHERE batch_id = :batch_id AND state IN ('FAILED', 'CANCELLED') AND error IS NOT NULL
        AND NOT EXISTS (SELECT FROM generation_requests later WHERE later.continues_id = g.id AND NOT later.is_late)
    LIMIT :limit) found
GROUP BY 1, 2 ORDER BY 4 DESC, 1, 2""")


@dataclass(frozen=True, slots=True)
class Minute:
    """What happened in a minute."""

    at: datetime
    created: float
    succeeded: float
    failed: float


@dataclass(frozen=True, slots=True)
class Money:
    """What is spent, and what is at risk, in US dollars."""

    spent_usd: float = 0.0
    at_risk_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """A provider's task, as its poller sees it."""

    state: str
    strategy: str
    poll_interval_ms: int
    attempts: int
    retry_count: int
    progress: int
    last_error: Json | None
    next_poll_at: datetime
    deadline_at: datetime
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """The part of a generation's request that only operators are shown.

    `price_usd`: the most that submitting it again costs by the catalog, in US dollars.
    """

    input_images: list[str]
    store_attempts: int
    released_at: datetime
    when_uncertain: str
    price_usd: float


@dataclass(frozen=True, slots=True)
class RatingRecord:
    """What a user thought of a generation's results."""

    rating: int
    feedback: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands behind a generation. None: it has none such."""

    request: RequestRecord
    task: TaskRecord | None
    rating: RatingRecord | None


@dataclass(frozen=True, slots=True)
class Failures:
    """Generations that failed for the same reason, with one of their messages.

    `was_submitted`: whether they were sent to a provider; only those may be billed.
    """

    code: str
    was_submitted: bool
    message: str
    number: int


@dataclass(frozen=True, slots=True)
class GenerationPage:
    """Generations, newest first.

    `before`: where older ones begin; None: there are none. `is_partial`: only a window was looked through.
    """

    generations: list[GenerationRecord]
    before: str | None
    is_partial: bool = False


class ConsoleReads:
    """Reads of the console."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def minutes(self, minutes: int) -> tuple[list[Minute], dict[str, Money]]:
        """What happened in the last minutes, and today's (UTC) money by provider."""

        def work(connection: Connection) -> tuple[list[Minute], dict[str, Money]]:
            found = [
                Minute(row.at, row.created or 0.0, row.succeeded or 0.0, row.failed or 0.0)
                for row in connection.execute(_MINUTES, {"minutes": minutes})
            ]
            # Sums of floats: to the micro-dollar, which is as exact as money is.
            money = {
                row.provider_id: Money(round(row.spent_usd, 6), round(row.at_risk_usd, 6))
                for row in connection.execute(_TODAY)
            }
            return found, money

        return await self._database.transaction("console_minutes", work)

    async def generations(
        self, limit: int, wanted: GenerationFilter, *, before: str | None, after: str | None = None
    ) -> GenerationPage:
        """A page of generations older than the id `before`, and not older than the id `after`.

        A condition that an index leads to is followed; for others at most `WINDOW` generations are looked through, so
        that a page costs the same whatever there is.
        """
        found = conditions(wanted)
        if set(found) == {"state"} and State.SUCCESS not in wanted.states:
            led, others = _led_by_state(wanted, before, after, limit + 1), []
        else:
            led = _led(found, before, after)
            others = [value for name, value in found.items() if name != led.name]

        def work(connection: Connection) -> GenerationPage:
            query = READ.where(*led.conditions).order_by(*led.order).limit(limit + 1)
            floor = None
            if others:
                last = sa.select(_columns.id).where(*led.conditions).order_by(*led.order).offset(WINDOW - 1).limit(1)
                floor = connection.execute(last).scalar_one_or_none()
                query = query.where(*others, *([_columns.id >= floor] if floor is not None else []))
            page = records(GenerationRecord, connection.execute(query))
            if len(page) > limit:
                return GenerationPage(page[:limit], page[limit - 1].id)
            return GenerationPage(page, floor, is_partial=floor is not None)

        return await self._database.transaction("console_generations", work)

    async def behind(self, generation_id: str) -> Behind:
        """What stands behind a generation that is there."""

        def work(connection: Connection) -> Behind:
            (request,) = records(RequestRecord, connection.execute(_INPUTS, {"id": generation_id}))
            tasks = records(TaskRecord, connection.execute(_TASK, {"generation_id": generation_id}))
            ratings = records(RatingRecord, connection.execute(_RATING, {"id": generation_id}))
            return Behind(request, tasks[0] if tasks else None, ratings[0] if ratings else None)

        return await self._database.transaction("console_generation", work)

    async def failures(self, batch_id: str, *, limit: int) -> list[Failures]:
        """Why generations of a batch failed, the most frequent reason first, by the first `limit` of them."""
        parameters = {"batch_id": batch_id, "limit": limit}
        return await self._database.transaction(
            "console_batch_failures", lambda c: records(Failures, c.execute(_FAILURES, parameters))
        )


# Those with an index that goes on by the id.
_LEADERS = ("batch_id", "owner", "experiment_id")
_columns = generation_requests.c
# Sorts after all ids of generations.
_AFTER_ALL = "h"


@dataclass(frozen=True, slots=True)
class _Led:
    """What an index leads to, newest first. `name`: the condition that it stands for; empty: none."""

    name: str
    conditions: list[sa.ColumnElement[bool]]
    order: list[sa.ColumnElement[Any]]


def _led(found: Mapping[str, Any], before: str | None, after: str | None) -> _Led:
    bounds = [_columns.id < before] if before is not None else []
    bounds += [_columns.id >= after] if after is not None else []
    if "request_id" in found:
        return _Led("request_id", [found["request_id"], *bounds], [_columns.id.desc()])
    name = next((name for name in _LEADERS if name in found), "")
    if not name:
        return _Led("", bounds, [_columns.id.desc()])
    # As rows of the index: a planner that knows the column to be one value goes along the primary key instead, past
    # whatever others have made since.
    column, value = _columns[name], found[name].right
    key = sa.tuple_(column, _columns.id)
    upper = key < sa.tuple_(value, sa.literal(before or _AFTER_ALL))
    lower = key >= sa.tuple_(value, sa.literal(after or ""))
    return _Led(name, [column.is_not(None), upper, lower], [column.desc(), _columns.id.desc()])


def _led_by_state(wanted: GenerationFilter, before: str | None, after: str | None, limit: int) -> _Led:
    """The newest of each state apart, each by its own stretch of the index."""
    bounds = _led({}, before, after).conditions
    # As the index has it, so that it serves.
    unended = sa.literal_column("state <> 'SUCCESS'", sa.Boolean)
    newest = [
        sa.select(_columns.id)
        .where(_columns.state == one.value, unended, *bounds)
        .order_by(_columns.id.desc())
        .limit(limit)
        .subquery()
        for one in wanted.states
    ]
    ids = sa.union_all(*(sa.select(found.c.id) for found in newest))
    return _Led("state", [_columns.id.in_(ids)], [_columns.id.desc()])
