"""Users' opinions of generations, one each; what an experiment measures of them goes into its ledger with them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_experiments import RATING_METRIC, NewRating
from libs.common.database.stores.sets import rows_as_json, statement

# Two opinions of one generation come one after the other.
_HOLD = statement("""
SELECT g.id, g.state, g.owner, g.user_id, g.experiment_id, g.variant_id, g.experiment_version
FROM generation_requests g
WHERE g.id = :id AND g.deleted_at IS NULL AND (CAST(:owner AS text) IS NULL OR g.owner = :owner)
FOR NO KEY UPDATE""")
_OLD = statement("SELECT rating, context FROM generation_ratings WHERE generation_id = :id")
_KEEP = statement("""
INSERT INTO generation_ratings (generation_id, rating, feedback, context)
VALUES (:id, :rating, :feedback, CAST(:context AS jsonb))
ON CONFLICT (generation_id) DO UPDATE SET rating = EXCLUDED.rating, feedback = EXCLUDED.feedback,
    context = EXCLUDED.context, rated_at = now()
RETURNING rated_at""")
_TELL = statement("""
INSERT INTO experiment_ledger (experiment_id, variant_id, version, unit, owner, user_id, kind, metric, value, old_value)
SELECT :experiment_id, :variant_id, :version,
    experiment_unit(:owner, :user_id), :owner, :user_id,
    'rated', metric, value, old_value
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(metric text, value float, old_value float)""")


class RatingStore:
    """Writes of ratings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rate(self, new: NewRating, *, owner: str | None) -> tuple[str, datetime | None] | None:
        """Keep an opinion in place of an earlier one: the generation's state, and when it was kept.

        None where `owner` has no such generation; without a time where it is not one that has succeeded.
        """

        def work(connection: Connection) -> tuple[str, datetime | None] | None:
            row = connection.execute(_HOLD, {"id": new.generation_id, "owner": owner}).mappings().first()
            if row is None:
                return None
            if row["state"] != "SUCCESS":
                return row["state"], None
            old = connection.execute(_OLD, {"id": new.generation_id}).mappings().first()
            values = {"id": new.generation_id, "rating": new.rating, "feedback": new.feedback}
            rated_at = connection.execute(_KEEP, {**values, "context": json.dumps(new.context)}).scalar_one()
            _tell(connection, dict(row), _numbers(old), _numbers({"rating": new.rating, "context": new.context}))
            return row["state"], rated_at

        return await self._database.transaction("rate_generation", work)


def _numbers(opinion: Any) -> dict[str, float]:
    """What of an opinion can be measured."""
    if opinion is None:
        return {}
    numbers = {
        key: float(value)
        for key, value in opinion["context"].items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {**numbers, RATING_METRIC: float(opinion["rating"])}


def _tell(connection: Connection, generation: dict[str, Any], old: dict[str, float], new: dict[str, float]) -> None:
    rows = [
        {"metric": metric, "value": new.get(metric), "old_value": old.get(metric)}
        for metric in sorted(old.keys() | new.keys())
        if old.get(metric) != new.get(metric)
    ]
    if generation["experiment_id"] is not None and rows:
        values = {name: generation[name] for name in ("experiment_id", "variant_id", "owner", "user_id")}
        version = generation["experiment_version"]
        connection.execute(_TELL, {**values, "version": version, "rows": rows_as_json(rows)})
