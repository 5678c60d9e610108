"""What experiments measured, segment by segment: read from the generations themselves, for whoever asks."""

from __future__ import annotations

from typing import Literal

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_experiments import SegmentRecord, SumsRecord
from libs.common.database.stores.experiment_measures import WEIGHT
from libs.common.database.stores.sets import statement

SegmentKind = Literal["user", "weekday", "api_key", "model", "label"]
_SEGMENTS_LIMIT = 30
_SEGMENTS: dict[SegmentKind, str] = {
    "user": "CASE WHEN u.is_returning THEN 'returning' ELSE 'new' END",
    "weekday": "trim(to_char(g.created_at AT TIME ZONE 'UTC', 'day'))",
    "api_key": "g.api_key_id",
    "model": "COALESCE(g.requested_model_identifier, g.model_identifier)",
    "label": "COALESCE(g.labels ->> :label, '')",
}
UNIT = "CASE WHEN g.user_id IS NULL THEN g.id ELSE g.owner || chr(10) || g.user_id END"
"""Whose value it is: a user's, or without one the generation's own."""
METRIC_NUMBER = "CASE WHEN jsonb_typeof(r.context -> :metric) = 'number' THEN (r.context ->> :metric)::float END"
# Value, and whether there is one.
METRIC_VALUES = {
    "success_rate": "CASE WHEN g.state = 'SUCCESS' THEN 1::float ELSE 0::float END",
    "avg_duration": """CASE WHEN g.state = 'SUCCESS' THEN
        experiment_seconds(g.continues_id, g.is_late, g.submitted_at, g.created_at, g.ended_at) END""",
    "avg_cost": "COALESCE(g.cost_usd, 0::float)",
    "user_rating": "r.rating::float",
}


# As the ledger's triggers: the first continuation takes the place of what it continues, from its beginning.
_COUNTS = """NOT EXISTS (SELECT FROM generation_requests later WHERE later.continues_id = g.id)
        AND (g.continues_id IS NULL OR is_first_continuation(g.id, g.continues_id, g.created_at))"""

# Each is read for each generation, so only for what needs it.
_JOIN_USERS = """
    LEFT JOIN experiment_users u ON u.experiment_id = g.experiment_id
        AND u.unit = experiment_unit(g.owner, g.user_id)"""
_JOIN_RATINGS = """
    LEFT JOIN generation_ratings r ON r.generation_id = g.id"""


def _sql(segment: str, value: str) -> str:
    joins = (_JOIN_USERS if "u." in segment else "") + (_JOIN_RATINGS if "r." in value else "")
    return f"""
WITH measured AS (
    SELECT {segment} AS segment, g.variant_id, {value} AS value,
        {UNIT} AS unit, {WEIGHT} AS weight
    FROM generation_requests g JOIN experiment_variants v ON v.id = g.variant_id
    JOIN experiment_allocations a ON a.experiment_id = g.experiment_id AND a.version = g.experiment_version{joins}
    WHERE g.experiment_id = :id AND g.state IN ('SUCCESS', 'FAILED') AND {_COUNTS}
), by_unit AS (
    SELECT segment, variant_id, count(*) AS samples, sum(value) AS total, sum(weight * value) AS m, sum(weight) AS d
    FROM measured WHERE value IS NOT NULL GROUP BY segment, variant_id, unit
), largest AS (
    SELECT segment FROM by_unit GROUP BY segment ORDER BY sum(samples) DESC LIMIT {_SEGMENTS_LIMIT}
)
SELECT segment, variant_id, sum(samples)::bigint AS samples, sum(total) AS total, count(*) AS units, sum(m) AS m,
    sum(d) AS d, sum(m * m) AS mm, sum(d * d) AS dd, sum(m * d) AS md
FROM by_unit WHERE segment IN (SELECT segment FROM largest) GROUP BY segment, variant_id ORDER BY segment, variant_id"""


class SegmentStore:
    """Reads segments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, experiment_id: str, kind: SegmentKind, metric: str, *, label: str = "") -> list[SegmentRecord]:
        """A metric's sums by segment, the thirty largest segments. `label`: by whose values, where the kind is that."""
        sql = statement(_sql(_SEGMENTS[kind], METRIC_VALUES.get(metric, METRIC_NUMBER)))
        values = {"id": experiment_id}
        values |= {"label": label} if kind == "label" else {}
        values |= {} if metric in METRIC_VALUES else {"metric": metric}

        def work(connection: Connection) -> list[SegmentRecord]:
            found = []
            for row in connection.execute(sql, values).mappings():
                columns = dict(row)
                found.append(SegmentRecord(columns.pop("segment"), SumsRecord(metric=metric, **columns)))
            return found

        return await self._database.transaction("read_experiment_segments", work)
