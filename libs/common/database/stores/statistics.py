"""What happened, added up: the ledger that triggers write is folded into counts by minute, hour, day and in all.

Durations are counted in buckets that grow by a tenth, so that a percentile of any sum of them is right within 5 %.
Source of the buckets: DDSketch, Masson, Rim and Lee, VLDB 2019 (relative accuracy 0.048 for a growth of 1.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.common.database.engine import Database
from libs.common.database.stores.sets import records, rows_as_json, statement

GROWTH = 1.1
NO_BUCKET = -1
MINUTES_DAYS, HOURS_DAYS = 3, 400
# What is known to have been billed: the cost of generations that ended, and what was billed without a result.
_SPENT = {"generation_ended", "money_spent"}
_KEY = "kind, model_identifier, provider_id, outcome, code, bucket"

# One at a time: whoever else would wait for the same rows, which are few and hot.
_LOCK = statement("SELECT pg_try_advisory_xact_lock(hashtext('darkroom.fold'))")
_FOLD = statement(f"""
WITH taken AS (
    DELETE FROM statistics_ledger WHERE id = ANY(ARRAY(SELECT id FROM statistics_ledger ORDER BY id LIMIT :limit))
    RETURNING *
), placed AS (
    SELECT period.name AS period, CASE period.name WHEN 'total' THEN 'epoch'::timestamptz
        ELSE date_trunc(period.name, at) END AS at, kind, model_identifier, provider_id, outcome, code,
        CASE WHEN seconds IS NULL OR kind <> 'generation_ended' OR outcome <> 'SUCCESS' THEN {NO_BUCKET}
            ELSE LEAST(32000, GREATEST(0, ceil(ln(GREATEST(seconds, 0.001) * 1000) / ln({GROWTH})))) END AS bucket,
        count, COALESCE(seconds, 0) * count AS seconds, cost_usd, taken.at AS last_at
    FROM taken CROSS JOIN (VALUES ('minute'), ('hour'), ('day'), ('total')) AS period (name)
), folded AS (
    INSERT INTO statistics AS s (period, at, {_KEY}, count, seconds, cost_usd, last_at)
    SELECT period, at, {_KEY}, sum(count), sum(seconds), sum(cost_usd), max(last_at)
    FROM placed GROUP BY period, at, {_KEY} ORDER BY period, at, {_KEY}
    ON CONFLICT (period, at, {_KEY}) DO UPDATE SET count = s.count + EXCLUDED.count,
        seconds = s.seconds + EXCLUDED.seconds, cost_usd = s.cost_usd + EXCLUDED.cost_usd,
        last_at = GREATEST(s.last_at, EXCLUDED.last_at)
)
SELECT count(*) FROM taken""")

# By hops along the primary key, one for each segment: without the OFFSET the planner makes a join of it, which reads
# the whole table.
_READ = statement(f"""
SELECT {_KEY}, sum(count)::bigint AS count, sum(seconds) AS seconds, sum(cost_usd) AS cost_usd, max(last_at) AS last_at
FROM jsonb_to_recordset(CAST(:segments AS jsonb)) AS segment(period text, from_time timestamptz, to_time timestamptz)
CROSS JOIN LATERAL (
    SELECT * FROM statistics s
    WHERE s.period = segment.period AND s.at >= segment.from_time AND s.at < segment.to_time OFFSET 0
) AS found
GROUP BY {_KEY}""")

_TOTALS = statement(f"""
SELECT {_KEY}, count, seconds, cost_usd, last_at FROM statistics WHERE period = 'total'""")

QUEUES = statement("""
SELECT provider_id, count(*) AS waiting,
    GREATEST(0, extract(epoch FROM now() - min(released_at)))::float AS oldest_seconds
FROM generation_requests WHERE state = 'PENDING' GROUP BY provider_id""")

_TASKS = statement("""
SELECT provider_id, count(*) AS live,
    GREATEST(0, extract(epoch FROM now() - min(next_poll_at)))::float AS overdue_seconds
FROM poll_tasks WHERE ended_at IS NULL GROUP BY provider_id""")

_HOLDERS = statement("""
SELECT lease_owner, count(*) AS tasks FROM poll_tasks
WHERE ended_at IS NULL AND lease_owner IS NOT NULL AND lease_until > now() GROUP BY lease_owner ORDER BY lease_owner""")

_STATES = statement("""
SELECT 'PENDING' AS state, count(*) AS number FROM generation_requests WHERE state = 'PENDING'
UNION ALL SELECT state, count(*) FROM generation_requests WHERE state IN ('DISPATCHING', 'PROCESSING') GROUP BY state
UNION ALL SELECT state, count(*) FROM generation_requests WHERE state = 'STORING' GROUP BY state""")

_FORGET = statement("""
DELETE FROM statistics WHERE (period, at) IN (
    SELECT DISTINCT period, at FROM statistics
    WHERE period = 'minute' AND at < now() - make_interval(days => :minutes_days)
    ORDER BY period, at LIMIT :limit)""")
_FORGET_HOURS = statement("""
DELETE FROM statistics WHERE period = 'hour' AND at < now() - make_interval(days => :hours_days)""")


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted of one kind, model, provider, outcome, code and duration.

    Kinds of money, in `cost_usd`, beside what generations cost that ended: `money_at_risk`, and `money_spent` for
    submissions that were billed without a result. Both are counted at the time of the submission, whenever they change.
    """

    kind: str
    model_identifier: str
    provider_id: str
    outcome: str
    code: str
    bucket: int
    count: int
    seconds: float
    cost_usd: float
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a range, and by what it is read: minute, hour or day."""

    period: str
    from_time: datetime
    to_time: datetime


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for a provider account."""

    provider_id: str
    waiting: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class LiveTasks:
    """The tasks that a provider works on, and for how long the longest due of them has been so."""

    provider_id: str
    live: int
    overdue_seconds: float


def spent_usd(counts: Iterable[Count]) -> float:
    """What of these counts is known to have been billed, in US dollars."""
    return sum(count.cost_usd for count in counts if count.kind in _SPENT)


def at_risk_usd(counts: Iterable[Count]) -> float:
    """What of these counts may have been billed, while that is not known, in US dollars."""
    return sum(count.cost_usd for count in counts if count.kind == "money_at_risk")


class StatisticsStore:
    """Folds and reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fold(self, limit: int) -> int:
        """Add up at most `limit` lines of the ledger; how many there were. 0 while another replica does."""

        def work(c: Any) -> int:
            if not c.execute(_LOCK).scalar_one():
                return 0
            return int(c.execute(_FOLD, {"limit": limit}).scalar_one())

        return await self._database.transaction("fold_statistics", work)

    async def read(self, segments: Sequence[Segment]) -> list[Count]:
        """What happened in a range."""
        rows = [
            {"period": part.period, "from_time": part.from_time.isoformat(), "to_time": part.to_time.isoformat()}
            for part in segments
        ]
        parameters = {"segments": rows_as_json(rows)}
        return await self._database.transaction(
            "read_statistics", lambda c: records(Count, c.execute(_READ, parameters))
        )

    async def totals(self) -> list[Count]:
        """All that ever happened."""
        return await self._database.transaction("read_totals", lambda c: records(Count, c.execute(_TOTALS)))

    async def states(self) -> dict[str, int]:
        """How many generations stand in each state that is not the end."""
        return await self._database.transaction(
            "count_states", lambda c: {row.state: row.number for row in c.execute(_STATES)}
        )

    async def queues(self) -> list[Queue]:
        """What waits, by provider."""
        return await self._database.transaction("read_queues", lambda c: records(Queue, c.execute(QUEUES)))

    async def tasks(self) -> list[LiveTasks]:
        """What is followed, by provider."""
        return await self._database.transaction("read_live_tasks", lambda c: records(LiveTasks, c.execute(_TASKS)))

    async def holders(self) -> dict[str, int]:
        """The pollers that hold leases, and how many each."""
        return await self._database.transaction(
            "read_lease_holders", lambda c: {row.lease_owner: row.tasks for row in c.execute(_HOLDERS)}
        )

    async def forget(self, limit: int) -> int:
        """Delete at most `limit` minutes that are too old, and hours that are; how many rows."""
        parameters = {"minutes_days": MINUTES_DAYS, "limit": limit}

        def work(c: Any) -> int:
            minutes = c.execute(_FORGET, parameters).rowcount
            return int(minutes + c.execute(_FORGET_HOURS, {"hours_days": HOURS_DAYS}).rowcount)

        return await self._database.transaction("forget_statistics", work)


def percentile(counts: Iterable[Count], share: float) -> float:
    """The duration, in seconds, that this share (0 to 1) of what was counted took at most. 0 where nothing was."""
    timed = sorted((count.bucket, count.count) for count in counts if count.bucket != NO_BUCKET)
    rank = share * sum(number for _, number in timed)
    seen = 0
    for bucket, number in timed:
        seen += number
        if seen >= rank:
            # The value whose error is the same at either end of the bucket.
            return float(2 * GROWTH**bucket / (GROWTH + 1) / 1_000)
    return 0.0
