"""What experiments measured: the ledger that triggers and ratings write, folded into sums that need no rereading.

An experiment is randomised by user, so a user is one unit of its analysis, with the sum m and the count d of its
values; without a user a generation is. The mean of a variant is sum(m)/sum(d), and its variance needs the sums of
squares and products alone (the delta method: Deng, Knoblich and Lu, KDD 2018). Each value counts with one over the
probability that its variant had when it was allocated (inverse probability weighting), so that shares may change on
the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_experiments import (
    DURATION_GROWTH,
    AllocationRecord,
    ArrivalsRecord,
    DurationRecord,
    Measured,
    SnapshotRecord,
    SumsRecord,
)
from libs.common.database.stores.sets import records, statement

BEFORE_DAYS = 28
_FIRST_SNAPSHOT, _NEXT_SNAPSHOT = 20, 1.05
# Of a weight that was added and taken away again.
_NOTHING = 1e-9
WEIGHT = "10000::float / GREATEST(1, (a.weights ->> v.position)::int)"
"""One over the probability that the shares `a` gave to the variant `v`."""
# What a continuation goes on with is taken back, as it was counted.
_SIGN = "CASE kind WHEN 'ended' THEN 1 WHEN 'reopened' THEN -1 ELSE 0 END"
_SUMS = "units, m, d, mm, dd, md, a, b, aa, bb, ab, ma, mb, da, db"
_LINES = """
line AS (
    SELECT * FROM jsonb_to_recordset(CAST(:lines AS jsonb)) AS line(id bigint, experiment_id text, variant_id text,
        version int, unit uuid, owner text, user_id text, kind text, outcome text, seconds float, cost_usd float,
        metric text, value float, old_value float)
)"""
_WEIGHTED = f"""
weighted AS (
    SELECT line.*, {WEIGHT} AS weight
    FROM line JOIN experiment_variants v ON v.id = line.variant_id
    JOIN experiment_allocations a ON a.experiment_id = line.experiment_id AND a.version = line.version
)"""

# One at a time: whoever else would wait for the same rows, which are few and hot.
_LOCK = statement("SELECT pg_try_advisory_xact_lock(hashtext('darkroom.experiments.fold'))")
_WAIT = statement("SELECT true FROM pg_advisory_xact_lock(hashtext('darkroom.experiments.fold'))")
_TAKE = statement("""
WITH taken AS (
    DELETE FROM experiment_ledger WHERE id = ANY(ARRAY(SELECT id FROM experiment_ledger ORDER BY id LIMIT :limit))
    RETURNING *
)
SELECT count(*) AS number, CAST(jsonb_agg(to_jsonb(taken)) AS text) AS lines,
    bool_or(kind <> 'assigned') AS has_values
FROM taken""")

_ARRIVE = statement(f"""
WITH {_LINES}, met AS (
    SELECT DISTINCT ON (experiment_id, unit) experiment_id, unit, variant_id, version, owner, user_id
    FROM line WHERE kind = 'assigned' AND unit IS NOT NULL ORDER BY experiment_id, unit, id
), arrived AS (
    INSERT INTO experiment_users (experiment_id, unit, variant_id, version, is_returning, before)
    SELECT met.experiment_id, met.unit, met.variant_id, met.version, before.generations > 0, before.metrics
    FROM met JOIN experiments e ON e.id = met.experiment_id CROSS JOIN LATERAL (
        SELECT count(*) AS generations, jsonb_build_object(
            'success_rate', jsonb_build_array(count(*) FILTER (WHERE g.state = 'SUCCESS'),
                count(*) FILTER (WHERE g.state IN ('SUCCESS', 'FAILED'))),
            'avg_duration', jsonb_build_array(
                COALESCE(sum(extract(epoch FROM g.ended_at - g.created_at)) FILTER (WHERE g.state = 'SUCCESS'), 0),
                count(*) FILTER (WHERE g.state = 'SUCCESS')),
            'avg_cost', jsonb_build_array(
                COALESCE(sum(g.cost_usd) FILTER (WHERE g.state IN ('SUCCESS', 'FAILED')), 0),
                count(*) FILTER (WHERE g.state IN ('SUCCESS', 'FAILED')))) AS metrics
        FROM generation_requests g
        WHERE g.owner = met.owner AND g.user_id = met.user_id AND g.created_at < e.started_at
            AND g.created_at >= e.started_at - interval '{BEFORE_DAYS} days'
    ) before
    ON CONFLICT DO NOTHING RETURNING experiment_id, version, variant_id
), part AS (
    SELECT experiment_id, version, variant_id, 1 AS units, 0 AS generations, 0 AS ended, 0 AS cancelled FROM arrived
    UNION ALL
    SELECT experiment_id, version, variant_id, (unit IS NULL AND kind = 'assigned')::int, (kind = 'assigned')::int,
        {_SIGN}, CASE WHEN outcome = 'CANCELLED' THEN {_SIGN} ELSE 0 END
    FROM line WHERE kind IN ('assigned', 'ended', 'reopened')
)
INSERT INTO experiment_arrivals AS s (experiment_id, version, variant_id, units, generations, ended, cancelled)
SELECT part.experiment_id, part.version, part.variant_id, sum(units), sum(generations), sum(ended), sum(cancelled)
FROM part JOIN experiments e ON e.id = part.experiment_id GROUP BY 1, 2, 3
ON CONFLICT (experiment_id, version, variant_id) DO UPDATE SET units = s.units + EXCLUDED.units,
    generations = s.generations + EXCLUDED.generations, ended = s.ended + EXCLUDED.ended,
    cancelled = s.cancelled + EXCLUDED.cancelled""")

# A generation without a user is a unit that nothing is added to, so its line says by itself what changed.
_ADD = statement(f"""
WITH {_LINES}, {_WEIGHTED}, part AS (
    SELECT w.experiment_id, w.variant_id, w.unit, p.metric, w.weight,
        CASE WHEN w.kind = 'ended' THEN p.value ELSE 0 END AS value, (w.kind = 'ended')::int AS number,
        CASE WHEN w.kind = 'reopened' THEN p.value ELSE 0 END AS old_value, (w.kind = 'reopened')::int AS old_number
    FROM weighted w CROSS JOIN LATERAL (VALUES
        ('success_rate', CASE WHEN w.outcome = 'SUCCESS' THEN 1::float ELSE 0::float END, true),
        ('avg_duration', w.seconds, w.outcome = 'SUCCESS' AND w.seconds IS NOT NULL),
        ('avg_cost', w.cost_usd, true)
    ) AS p (metric, value, is_measured)
    WHERE w.kind IN ('ended', 'reopened') AND w.outcome IN ('SUCCESS', 'FAILED') AND p.is_measured
    UNION ALL
    SELECT experiment_id, variant_id, unit, metric, weight, COALESCE(value, 0), (value IS NOT NULL)::int,
        COALESCE(old_value, 0), (old_value IS NOT NULL)::int
    FROM weighted WHERE kind = 'rated'
), delta AS (
    SELECT experiment_id, variant_id, unit, metric, sum(weight * (value - old_value)) AS m,
        sum(weight * (number - old_number)) AS d, sum(number - old_number) AS samples, sum(value - old_value) AS total
    FROM part WHERE unit IS NOT NULL GROUP BY 1, 2, 3, 4
), placed AS (
    SELECT delta.*, COALESCE(old.m, 0) AS m0, COALESCE(old.d, 0) AS d0,
        (COALESCE(old.d, 0) + delta.d > {_NOTHING})::int - (COALESCE(old.d, 0) > {_NOTHING})::int AS units,
        COALESCE((u.before -> delta.metric ->> 0)::float, 0) AS a,
        COALESCE((u.before -> delta.metric ->> 1)::float, 0) AS b
    FROM delta LEFT JOIN experiment_users u ON u.experiment_id = delta.experiment_id AND u.unit = delta.unit
    LEFT JOIN experiment_units old ON old.experiment_id = delta.experiment_id AND old.unit = delta.unit
        AND old.variant_id = delta.variant_id AND old.metric = delta.metric
), kept AS (
    INSERT INTO experiment_units AS s (experiment_id, unit, variant_id, metric, m, d)
    SELECT experiment_id, unit, variant_id, metric, m, d FROM placed
    ON CONFLICT (experiment_id, unit, variant_id, metric) DO UPDATE SET m = s.m + EXCLUDED.m, d = s.d + EXCLUDED.d
), change AS (
    SELECT experiment_id, variant_id, metric, samples, total, units, m, d,
        (m0 + m) * (m0 + m) - m0 * m0 AS mm, (d0 + d) * (d0 + d) - d0 * d0 AS dd,
        (m0 + m) * (d0 + d) - m0 * d0 AS md, units * a AS a, units * b AS b, units * a * a AS aa,
        units * b * b AS bb, units * a * b AS ab, m * a AS ma, m * b AS mb, d * a AS da, d * b AS db
    FROM placed
    UNION ALL
    SELECT experiment_id, variant_id, metric, number - old_number, value - old_value, number - old_number,
        weight * (value - old_value), weight * (number - old_number),
        weight * weight * (value * value - old_value * old_value), weight * weight * (number - old_number),
        weight * weight * (value * number - old_value * old_number), 0, 0, 0, 0, 0, 0, 0, 0, 0
    FROM part WHERE unit IS NULL
)
INSERT INTO experiment_sums AS s (experiment_id, variant_id, metric, samples, total, {_SUMS})
SELECT experiment_id, variant_id, metric, sum(samples), sum(total),
    {", ".join(f"sum({name.strip()})" for name in _SUMS.split(","))}
FROM change GROUP BY 1, 2, 3
ON CONFLICT (experiment_id, variant_id, metric) DO UPDATE SET samples = s.samples + EXCLUDED.samples,
    total = s.total + EXCLUDED.total,
    {", ".join(f"{name.strip()} = s.{name.strip()} + EXCLUDED.{name.strip()}" for name in _SUMS.split(","))}""")

_TIME = statement(f"""
WITH {_LINES}, {_WEIGHTED}
INSERT INTO experiment_durations AS s (experiment_id, variant_id, bucket, samples, weight, weight_squared)
SELECT experiment_id, variant_id,
    LEAST(32000, GREATEST(0, ceil(ln(GREATEST(seconds, 0.001) * 1000) / ln({DURATION_GROWTH})))),
    sum({_SIGN}), sum({_SIGN} * weight), sum({_SIGN} * weight * weight)
FROM weighted WHERE kind IN ('ended', 'reopened') AND outcome = 'SUCCESS' AND seconds IS NOT NULL GROUP BY 1, 2, 3
ON CONFLICT (experiment_id, variant_id, bucket) DO UPDATE SET samples = s.samples + EXCLUDED.samples,
    weight = s.weight + EXCLUDED.weight, weight_squared = s.weight_squared + EXCLUDED.weight_squared""")

# At each twentieth more, so that the pictures of the longest experiment are made of a few hundred points.
_SNAPSHOT = statement(f"""
WITH {_LINES}, touched AS (
    SELECT DISTINCT line.experiment_id, p.name AS metric FROM line
    JOIN experiment_metrics p ON p.experiment_id = line.experiment_id AND p.role = 'PRIMARY'
), grown AS (
    SELECT t.experiment_id, t.metric, sum(s.units) AS units FROM touched t
    JOIN experiment_sums s ON s.experiment_id = t.experiment_id AND s.metric = t.metric GROUP BY 1, 2
), last AS (
    SELECT s.experiment_id, sum(s.units) AS units FROM experiment_snapshots s
    JOIN (SELECT experiment_id, max(at) AS at FROM experiment_snapshots
        WHERE experiment_id IN (SELECT experiment_id FROM touched) GROUP BY 1) newest
        ON newest.experiment_id = s.experiment_id AND newest.at = s.at GROUP BY 1
)
INSERT INTO experiment_snapshots (experiment_id, at, variant_id, metric, units, m, d, mm, dd, md)
SELECT s.experiment_id, now(), s.variant_id, s.metric, s.units, s.m, s.d, s.mm, s.dd, s.md
FROM grown JOIN experiment_sums s ON s.experiment_id = grown.experiment_id AND s.metric = grown.metric
LEFT JOIN last ON last.experiment_id = grown.experiment_id
WHERE grown.units >= GREATEST({_FIRST_SNAPSHOT}, {_NEXT_SNAPSHOT} * COALESCE(last.units, 0))""")

_READ_SUMS = statement(f"""
SELECT variant_id, metric, samples, total, {_SUMS} FROM experiment_sums WHERE experiment_id = :id""")
_READ_ARRIVALS = statement("""
SELECT version, variant_id, units, generations, ended, cancelled FROM experiment_arrivals
WHERE experiment_id = :id ORDER BY version, variant_id""")
_READ_DURATIONS = statement("""
SELECT variant_id, bucket, samples, weight, weight_squared FROM experiment_durations
WHERE experiment_id = :id ORDER BY variant_id, bucket""")
_READ_ALLOCATIONS = statement("""
SELECT version, weights, reason, began_at FROM experiment_allocations WHERE experiment_id = :id ORDER BY version""")
_READ_SNAPSHOTS = statement("""
SELECT at, variant_id, metric, units, m, d, mm, dd, md FROM experiment_snapshots
WHERE experiment_id = :id ORDER BY at""")


class MeasureStore:
    """Folds and reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fold(self, limit: int, *, waits: bool = False) -> int:
        """Add up at most `limit` lines of the ledger; how many there were.

        While another does that: 0, or with `waits` what it has left.
        """

        def work(connection: Connection) -> int:
            if not connection.execute(_WAIT if waits else _LOCK).scalar_one():
                return 0
            taken = connection.execute(_TAKE, {"limit": limit}).one()
            if taken.number:
                connection.execute(_ARRIVE, {"lines": taken.lines})
            for each in (_ADD, _TIME, _SNAPSHOT) if taken.has_values else ():
                connection.execute(each, {"lines": taken.lines})
            return int(taken.number)

        return await self._database.transaction("fold_experiments", work)

    async def read(self, experiment_id: str) -> Measured:
        """All that was measured of an experiment."""

        def work(connection: Connection) -> Measured:
            def found(record: type[Any], sql: Any) -> list[Any]:
                return records(record, connection.execute(sql, {"id": experiment_id}))

            return Measured(
                found(SumsRecord, _READ_SUMS),
                found(ArrivalsRecord, _READ_ARRIVALS),
                found(DurationRecord, _READ_DURATIONS),
                found(AllocationRecord, _READ_ALLOCATIONS),
            )

        return await self._database.transaction("read_experiment", work)

    async def snapshots(self, experiment_id: str) -> Sequence[SnapshotRecord]:
        """The primary metric's sums at earlier times, the earliest first."""

        def work(connection: Connection) -> list[SnapshotRecord]:
            found = []
            for row in connection.execute(_READ_SNAPSHOTS, {"id": experiment_id}).mappings():
                values = dict(row)
                found.append(SnapshotRecord(values.pop("at"), SumsRecord(**values)))
            return found

        return await self._database.transaction("read_experiment_snapshots", work)
