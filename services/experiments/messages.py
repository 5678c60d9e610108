"""Experiments as messages."""

from __future__ import annotations

from datetime import datetime

from darkroom.experiments.v1 import experiments_pb2 as messages
from google.protobuf.json_format import ParseDict

from libs.common.database.records_experiments import (
    ExperimentRecord,
    MetricRecord,
    NewExperiment,
    TargetRecord,
    VariantRecord,
)
from libs.common.database.states import ExperimentStatus
from libs.common.experiments.allocation import Running, Targeting, VariantSpec
from libs.common.experiments.messages import variant_message
from libs.common.rpc.messages import timestamp


def experiment_message(record: ExperimentRecord) -> messages.Experiment:
    """An experiment as people see it."""
    plan = record.plan
    return messages.Experiment(
        id=record.id,
        name=record.name,
        description=record.description,
        hypothesis=record.hypothesis,
        status=messages.ExperimentStatus.Value(f"EXPERIMENT_STATUS_{record.status}"),
        variants=[_variant_message(variant) for variant in record.variants],
        traffic_allocation={f"variant_{place}": weight / 100 for place, weight in enumerate(record.weights)},
        metrics=[_metric_message(metric) for metric in record.metrics],
        created_at=timestamp(record.created_at),
        started_at=timestamp(record.started_at),
        ended_at=timestamp(record.ended_at),
        targeting=_targeting_message(record.target),
        layer=record.layer,
        minimum_detectable_effect=record.minimum_detectable_effect,
        plan=messages.Plan(
            samples=plan.samples,
            fixed_horizon_samples=plan.fixed_horizon_samples,
            days=plan.days,
            samples_per_day=plan.samples_per_day,
            baseline=plan.baseline,
            note=plan.note,
        ),
        stop_at=timestamp(record.stop_at),
        factorial=ParseDict(record.factorial, messages.Factorial()) if record.factorial is not None else None,
        adaptation=messages.Adaptation(
            mode=messages.AllocationMode.Value(f"ALLOCATION_MODE_{record.mode}"),
            floor_percent=record.floor_buckets / 100,
        ),
    )


def draft_message(new: NewExperiment, now: datetime) -> messages.Experiment:
    """An experiment as it would be if it were kept now."""
    shared = {name: getattr(new, name) for name in new.__dataclass_fields__ if name != "weights"}
    return experiment_message(
        ExperimentRecord(
            **shared,
            status=ExperimentStatus.DRAFT,
            layer_ranges=[],
            version=1,
            created_at=now,
            updated_at=now,
            started_at=None,
            ended_at=None,
        )
    )


def _variant_message(record: VariantRecord) -> messages.Variant:
    message = variant_message(_spec(record))
    message.levels.update(record.levels)
    message.pause_reason = record.pause_reason or ""
    if record.paused_at is not None:
        message.paused_at.FromDatetime(record.paused_at)
    return message


def _spec(record: VariantRecord) -> VariantSpec:
    """What allocation needs of a variant."""
    return VariantSpec(record.id, record.name, record.model_identifier, record.prompt, record.parameters)


def _metric_message(metric: MetricRecord) -> messages.Metric:
    return messages.Metric(
        name=metric.name,
        role=messages.MetricRole.Value(f"METRIC_ROLE_{metric.role}"),
        goal=messages.MetricGoal.Value(f"METRIC_GOAL_{metric.goal}"),
        margin=metric.margin,
    )


def _targeting_message(target: TargetRecord) -> messages.Targeting:
    return messages.Targeting(
        model_identifiers=target.model_identifiers,
        api_key_ids=target.api_key_ids,
        labels=target.labels,
        traffic_percent=target.traffic_buckets / 100,
    )


def running_of(record: ExperimentRecord) -> Running:
    """A running experiment as allocation needs it."""
    return Running(
        experiment_id=record.id,
        salt=record.salt,
        # One without a layer shares its buckets with nobody.
        layer=record.layer or record.id,
        layer_ranges=tuple((start, end) for start, end in record.layer_ranges),
        targeting=Targeting(
            frozenset(record.target.model_identifiers), frozenset(record.target.api_key_ids), record.target.labels
        ),
        variants=tuple(map(_spec, record.variants)),
        buckets=record.buckets,
        version=record.version,
    )
