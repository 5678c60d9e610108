"""What came before an experiment: how much traffic there is, and what its metric was. For planning."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_experiments import SumsRecord, TargetRecord
from libs.common.database.stores.experiment_segments import METRIC_NUMBER, METRIC_VALUES, UNIT
from libs.common.database.stores.sets import statement
from libs.common.ids import first_id

TRAFFIC_DAYS, BASELINE_DAYS = 7, 28
# The newest of them say enough, and no planning reads a whole table.
_ROWS = 200_000

_TRAFFIC = statement(f"""
SELECT count(DISTINCT {UNIT}) AS units,
    count(*) AS generations,
    extract(epoch FROM now() - min(created_at)) / 86400.0 AS days
FROM (
    SELECT id, owner, user_id, model_identifier, requested_model_identifier, api_key_id, labels, created_at
    FROM generation_requests WHERE id >= :since AND continues_id IS NULL ORDER BY id DESC LIMIT {_ROWS}
) g
WHERE COALESCE(requested_model_identifier, model_identifier) = ANY(:models)
    AND (:api_keys = '{{}}' OR api_key_id = ANY(CAST(:api_keys AS text[]))) AND labels @> CAST(:labels AS jsonb)""")


def _baseline_sql(value: str) -> str:
    return f"""
WITH measured AS (
    SELECT {value} AS value, {UNIT} AS unit
    FROM (
        SELECT * FROM generation_requests WHERE id >= :since AND model_identifier = :model
        ORDER BY id DESC LIMIT {_ROWS}
    ) g LEFT JOIN generation_ratings r ON r.generation_id = g.id
    WHERE g.state IN ('SUCCESS', 'FAILED') AND g.reused_from_id IS NULL
), by_unit AS (
    SELECT count(*) AS samples, sum(value) AS m, count(*)::float AS d
    FROM measured WHERE value IS NOT NULL GROUP BY unit
)
SELECT COALESCE(sum(samples), 0)::bigint AS samples, count(*) AS units, COALESCE(sum(m), 0) AS m,
    COALESCE(sum(d), 0) AS d, COALESCE(sum(m * m), 0) AS mm, COALESCE(sum(d * d), 0) AS dd,
    COALESCE(sum(m * d), 0) AS md
FROM by_unit"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Users (generations, without a user) and generations a day."""

    units_per_day: float
    generations_per_day: float


class TrafficStore:
    """Reads what came before."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def traffic(self, target: TargetRecord) -> Traffic:
        """What of the last week could have taken part, by the day."""
        values = {
            "since": first_id("gen", datetime.now(UTC) - timedelta(days=TRAFFIC_DAYS)),
            "models": target.model_identifiers,
            "api_keys": target.api_key_ids,
            "labels": json.dumps(target.labels),
        }

        def work(connection: Connection) -> Traffic:
            row = connection.execute(_TRAFFIC, values).one()
            # A day at least: an hour of trying out says nothing of a day.
            days = max(1.0, float(row.days or TRAFFIC_DAYS))
            share = target.traffic_buckets / 10_000
            return Traffic(row.units / days * share, row.generations / days * share)

        return await self._database.transaction("experiment_traffic", work)

    async def baseline(self, model: str, metric: str) -> SumsRecord:
        """A metric's sums of the last four weeks of a model."""
        values = {"since": first_id("gen", datetime.now(UTC) - timedelta(days=BASELINE_DAYS)), "model": model}
        values |= {} if metric in METRIC_VALUES else {"metric": metric}

        def work(connection: Connection) -> SumsRecord:
            row = connection.execute(
                statement(_baseline_sql(METRIC_VALUES.get(metric, METRIC_NUMBER))), values
            ).mappings()
            return SumsRecord(variant_id="", metric=metric, **row.one())

        return await self._database.transaction("experiment_baseline", work)
