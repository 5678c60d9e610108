"""Experiments: planned, started, paused, ended; and the shares of their variants."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.engine import Connection

from libs.common.database.engine import Database
from libs.common.database.records_experiments import (
    ExperimentRecord,
    MetricRecord,
    NewAllocation,
    NewExperiment,
    PauseNotice,
    PlanRecord,
    Ranges,
    TargetRecord,
    VariantRecord,
)
from libs.common.database.states import (
    AllocationMode,
    ExperimentStatus,
    MetricGoal,
    MetricRole,
    experiment_sources,
)
from libs.common.database.stores.sets import records, rows_as_json, statement

Place = Callable[[list[Ranges], int], Ranges | None]
"""From the ranges that others of a layer have, and how many buckets are wanted, to free ones; None: too few."""

_INSERT = statement("""
INSERT INTO experiments (id, name, description, hypothesis, status, layer, target_models, target_api_keys,
    target_labels, traffic_buckets, salt, mode, floor_buckets, buckets, minimum_detectable_effect, plan, factorial,
    stop_at)
VALUES (:id, :name, :description, :hypothesis, 'DRAFT', :layer, CAST(:target_models AS jsonb),
    CAST(:target_api_keys AS jsonb), CAST(:target_labels AS jsonb), :traffic_buckets, :salt, :mode, :floor_buckets,
    :buckets, :minimum_detectable_effect, CAST(:plan AS jsonb), CAST(:factorial AS jsonb), :stop_at)""")
_INSERT_VARIANTS = statement("""
INSERT INTO experiment_variants (id, experiment_id, position, name, model_identifier, prompt, parameters, levels)
SELECT id, :experiment_id, position, name, model_identifier, prompt, parameters, levels
FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS row(id text, position smallint, name text, model_identifier text,
    prompt text, parameters jsonb, levels jsonb)""")
_INSERT_METRICS = statement("""
INSERT INTO experiment_metrics (experiment_id, position, name, role, goal, margin)
SELECT :experiment_id, position, name, role, goal, margin
FROM jsonb_to_recordset(CAST(:rows AS jsonb))
    AS row(position smallint, name text, role text, goal text, margin float)""")
_INSERT_ALLOCATION = statement("""
INSERT INTO experiment_allocations (experiment_id, version, weights, reason)
VALUES (:experiment_id, :version, CAST(:weights AS jsonb), :reason)""")

_COLUMNS = """
id, name, description, hypothesis, status, layer, layer_ranges, target_models, target_api_keys, target_labels,
traffic_buckets, salt, mode, floor_buckets, buckets, version, minimum_detectable_effect, plan, factorial, stop_at,
created_at, started_at, ended_at, updated_at"""
_GET = statement(f"SELECT {_COLUMNS} FROM experiments WHERE id = ANY(:ids) ORDER BY id DESC")
_LIST = statement("""
SELECT id FROM experiments
WHERE (CAST(:before AS text) IS NULL OR id < :before) AND (CAST(:status AS text) IS NULL OR status = :status)
ORDER BY id DESC LIMIT :limit""")
_LIVE = statement("SELECT id FROM experiments WHERE status = 'RUNNING' ORDER BY id")
_VARIANTS = statement("""
SELECT experiment_id, id, name, model_identifier, prompt, parameters, levels, paused_at, pause_reason
FROM experiment_variants WHERE experiment_id = ANY(:ids) ORDER BY experiment_id, position""")
_METRICS = statement("""
SELECT experiment_id, name, role, goal, margin
FROM experiment_metrics WHERE experiment_id = ANY(:ids) ORDER BY experiment_id, position""")

# Those of one layer are placed one after the other.
_LOCK_LAYER = statement("SELECT pg_advisory_xact_lock(hashtext('darkroom.layer'), hashtext(:layer))")
_HOLD = statement(f"SELECT {_COLUMNS} FROM experiments WHERE id = :id FOR UPDATE")
_TAKEN = statement("""
SELECT layer_ranges FROM experiments
WHERE layer = :layer AND status IN ('RUNNING', 'PAUSED') AND id <> :id""")
_MOVE = statement("""
UPDATE experiments SET status = :status, updated_at = now(),
    started_at = CASE WHEN :status = 'RUNNING' THEN COALESCE(started_at, now()) ELSE started_at END,
    ended_at = CASE WHEN :status = 'COMPLETED' THEN now() END,
    layer_ranges = COALESCE(CAST(:layer_ranges AS jsonb), layer_ranges)
WHERE id = :id AND status = ANY(:sources)""")
# Its picture of the shares begins when it does.
_BEGIN = statement("""
UPDATE experiment_allocations a SET began_at = now() FROM experiments e
WHERE a.experiment_id = :id AND e.id = a.experiment_id AND a.version = e.version AND e.started_at = e.updated_at""")
_REALLOCATE = statement("""
UPDATE experiments SET buckets = :buckets, version = version + 1, updated_at = now()
WHERE id = :experiment_id AND version = :from_version AND status <> 'COMPLETED'""")
_PAUSE_VARIANT = statement("""
UPDATE experiment_variants SET paused_at = now(), pause_reason = :reason WHERE id = :id AND paused_at IS NULL""")
_NOTICES = statement("""
SELECT v.id AS variant_id, v.name AS variant_name, e.id AS experiment_id, e.name AS experiment_name,
    v.pause_reason AS reason
FROM experiment_variants v JOIN experiments e ON e.id = v.experiment_id
WHERE v.paused_at IS NOT NULL AND v.alerted_at IS NULL ORDER BY v.paused_at LIMIT 100""")
_NOTIFIED = statement("UPDATE experiment_variants SET alerted_at = now() WHERE id = :id")
_OVERDUE = statement("""
SELECT id FROM experiments WHERE status IN ('RUNNING', 'PAUSED') AND stop_at <= now()""")


class ExperimentStore:
    """Reads and writes of experiments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, new: NewExperiment) -> ExperimentRecord:
        """Keep a draft, whole or not at all."""

        def work(connection: Connection) -> ExperimentRecord:
            _insert(connection, new)
            return _read(connection, [new.id])[0]

        return await self._database.transaction("create_experiment", work)

    async def get(self, experiment_id: str) -> ExperimentRecord | None:
        """One experiment."""
        found = await self._database.transaction("get_experiment", lambda c: _read(c, [experiment_id]))
        return found[0] if found else None

    async def list_page(
        self, limit: int, *, before: str | None = None, status: ExperimentStatus | None = None
    ) -> list[ExperimentRecord]:
        """At most `limit`, the newest first."""
        values = {"limit": limit, "before": before, "status": status}
        return await self._database.transaction(
            "list_experiments", lambda c: _read(c, list(c.execute(_LIST, values).scalars()))
        )

    async def running(self) -> list[ExperimentRecord]:
        """Those that allocate, the oldest first."""
        found = await self._database.transaction(
            "running_experiments", lambda c: _read(c, list(c.execute(_LIVE).scalars()))
        )
        return found[::-1]

    async def start(self, experiment_id: str, place: Place) -> ExperimentRecord | None:
        """Let it run, in its layer's part that `place` finds free. None where it does not stand in a state for that.

        Raises LayerFull where the layer has too little room left.
        """

        def work(connection: Connection) -> ExperimentRecord | None:
            found = _held(connection, experiment_id)
            if found is None or found.status not in experiment_sources(ExperimentStatus.RUNNING):
                return None
            ranges = _placed(connection, found, place)
            _move(connection, experiment_id, ExperimentStatus.RUNNING, ranges)
            connection.execute(_BEGIN, {"id": experiment_id})
            return _read(connection, [experiment_id])[0]

        return await self._database.transaction("start_experiment", work)

    async def move(self, experiment_id: str, target: ExperimentStatus) -> ExperimentRecord | None:
        """Bring it to another status. None where nothing leads there."""

        def work(connection: Connection) -> ExperimentRecord | None:
            moved = _move(connection, experiment_id, target, None)
            return _read(connection, [experiment_id])[0] if moved else None

        return await self._database.transaction("move_experiment", work)

    async def reallocate(self, new: NewAllocation, *, pause: tuple[str, str] | None = None) -> bool:
        """Take over shares, unless others were since. `pause`: a variant that is taken out with it, and why."""

        def work(connection: Connection) -> bool:
            values = asdict(new)
            if not connection.execute(_REALLOCATE, values).rowcount:
                return False
            version, weights = new.from_version + 1, json.dumps(new.weights)
            connection.execute(_INSERT_ALLOCATION, {**values, "version": version, "weights": weights})
            if pause is not None:
                connection.execute(_PAUSE_VARIANT, {"id": pause[0], "reason": pause[1]})
            return True

        return await self._database.transaction("reallocate_experiment", work)

    async def notices(self) -> list[PauseNotice]:
        """Variants that were taken out and that nobody was told of yet."""
        return await self._database.transaction(
            "experiment_notices", lambda c: records(PauseNotice, c.execute(_NOTICES))
        )

    async def notified(self, variant_id: str) -> None:
        """People were told of it."""
        await self._database.transaction(
            "experiment_notified", lambda c: c.execute(_NOTIFIED, {"id": variant_id}).close()
        )

    async def complete_overdue(self) -> list[str]:
        """End those whose time is over; which ones."""

        def work(connection: Connection) -> list[str]:
            overdue = list(connection.execute(_OVERDUE).scalars())
            return [found for found in overdue if _move(connection, found, ExperimentStatus.COMPLETED, None)]

        return await self._database.transaction("complete_overdue_experiments", work)


class LayerFull(Exception):
    """A layer has too little room left for an experiment."""


def _insert(connection: Connection, new: NewExperiment) -> None:
    target = new.target
    values = {
        **{name: getattr(new, name) for name in ("id", "name", "description", "hypothesis", "layer", "salt", "mode")},
        **{name: getattr(new, name) for name in ("floor_buckets", "buckets", "minimum_detectable_effect", "stop_at")},
        "target_models": json.dumps(target.model_identifiers),
        "target_api_keys": json.dumps(target.api_key_ids),
        "target_labels": json.dumps(target.labels),
        "traffic_buckets": target.traffic_buckets,
        "plan": json.dumps(asdict(new.plan)),
        "factorial": json.dumps(new.factorial) if new.factorial is not None else None,
    }
    connection.execute(_INSERT, values)
    variants = [
        {**asdict(variant), "paused_at": None, "position": position} for position, variant in enumerate(new.variants)
    ]
    metrics = [{**asdict(metric), "position": position} for position, metric in enumerate(new.metrics)]
    connection.execute(_INSERT_VARIANTS, {"experiment_id": new.id, "rows": rows_as_json(variants)})
    connection.execute(_INSERT_METRICS, {"experiment_id": new.id, "rows": rows_as_json(metrics)})
    first = {"experiment_id": new.id, "version": 1, "weights": json.dumps(new.weights), "reason": "planned"}
    connection.execute(_INSERT_ALLOCATION, first)


def _held(connection: Connection, experiment_id: str) -> ExperimentRecord | None:
    """The experiment, while nobody else changes it."""
    if connection.execute(_HOLD, {"id": experiment_id}).first() is None:
        return None
    return _read(connection, [experiment_id])[0]


def _placed(connection: Connection, found: ExperimentRecord, place: Place) -> Ranges:
    """Which part of its layer it gets; the one that it has, where it has run before."""
    if found.layer_ranges:
        return found.layer_ranges
    if not found.layer:
        taken: list[Ranges] = []
    else:
        connection.execute(_LOCK_LAYER, {"layer": found.layer})
        taken = list(connection.execute(_TAKEN, {"layer": found.layer, "id": found.id}).scalars())
    ranges = place(taken, found.target.traffic_buckets)
    if ranges is None:
        raise LayerFull
    return ranges


def _move(connection: Connection, experiment_id: str, target: ExperimentStatus, ranges: Ranges | None) -> bool:
    values = {
        "id": experiment_id,
        "status": target,
        "sources": experiment_sources(target),
        "layer_ranges": None if ranges is None else json.dumps(ranges),
    }
    return bool(connection.execute(_MOVE, values).rowcount)


def _read(connection: Connection, ids: Sequence[str]) -> list[ExperimentRecord]:
    """Whole experiments, the newest first."""
    if not ids:
        return []
    values = {"ids": list(ids)}
    variants, metrics = _children(connection, values)
    return [
        _record(dict(row), variants[row["id"]], metrics[row["id"]])
        for row in connection.execute(_GET, values).mappings()
    ]


def _children(
    connection: Connection, values: dict[str, Any]
) -> tuple[dict[str, list[VariantRecord]], dict[str, list[MetricRecord]]]:
    variants: defaultdict[str, list[VariantRecord]] = defaultdict(list)
    metrics: defaultdict[str, list[MetricRecord]] = defaultdict(list)
    for found in connection.execute(_VARIANTS, values).mappings():
        row = dict(found)
        variants[row.pop("experiment_id")].append(VariantRecord(**row))
    for metric in connection.execute(_METRICS, values):
        metrics[metric.experiment_id].append(
            MetricRecord(metric.name, MetricRole(metric.role), MetricGoal(metric.goal), metric.margin)
        )
    return variants, metrics


def _record(row: dict[str, Any], variants: list[VariantRecord], metrics: list[MetricRecord]) -> ExperimentRecord:
    target = TargetRecord(
        row.pop("target_models"), row.pop("target_api_keys"), row.pop("target_labels"), row.pop("traffic_buckets")
    )
    row["status"], row["mode"] = ExperimentStatus(row["status"]), AllocationMode(row["mode"])
    row["plan"], row["buckets"] = PlanRecord(**row["plan"]), bytes(row["buckets"])
    return ExperimentRecord(**row, target=target, variants=variants, metrics=metrics)
