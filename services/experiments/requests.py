"""From a CreateExperiment message to an experiment, or to every rule that it breaks."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from darkroom.experiments.v1 import experiments_pb2 as messages
from google.protobuf.json_format import MessageToDict
from pydantic import ValidationError

from libs.common.catalog import Catalog
from libs.common.database.records_experiments import (
    MetricRecord,
    NewExperiment,
    PlanRecord,
    TargetRecord,
    VariantRecord,
)
from libs.common.database.states import AllocationMode, MetricGoal, MetricRole
from libs.common.errors import FieldViolation
from libs.common.experiments.allocation import BUCKETS
from libs.common.ids import new_id
from libs.common.rpc.requests import raise_for, text_faults, time_of
from libs.common.rpc.structs import from_struct
from libs.common.validation.common import PROMPT_LIMIT, violations
from services.experiments import buckets, designs
from services.experiments.analysis.percentiles import P95
from services.experiments.shares import buckets_of, weights_of

_TEXTS = {"name": 200, "description": 2_000, "hypothesis": 2_000}
_METRICS_LIMIT, _MODELS_LIMIT, _KEYS_LIMIT, _LABELS_LIMIT = 10, 50, 100, 16
_LABEL_KEY_LIMIT, _LABEL_VALUE_LIMIT, _NAME_LIMIT = 64, 200, 100
_LAYER = re.compile(r"[A-Za-z0-9._-]{0,64}")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_SAMPLES = range(100, 100_000_001)
_FLOOR_PERCENT = 5.0
_LARGEST = 1e12
_HIGHEST_FLOOR_PERCENT = 50.0
_MODES = {
    messages.ALLOCATION_MODE_UNSPECIFIED: AllocationMode.FIXED,
    messages.ALLOCATION_MODE_FIXED: AllocationMode.FIXED,
    messages.ALLOCATION_MODE_THOMPSON: AllocationMode.THOMPSON,
    messages.ALLOCATION_MODE_TOP_TWO: AllocationMode.TOP_TWO,
}
_ROLES = {
    messages.METRIC_ROLE_PRIMARY: MetricRole.PRIMARY,
    messages.METRIC_ROLE_SECONDARY: MetricRole.SECONDARY,
    messages.METRIC_ROLE_GUARDRAIL: MetricRole.GUARDRAIL,
}
_GOALS = {messages.METRIC_GOAL_MAXIMIZE: MetricGoal.MAXIMIZE, messages.METRIC_GOAL_MINIMIZE: MetricGoal.MINIMIZE}


def experiment_of(message: messages.CreateExperimentRequest, catalog: Catalog) -> NewExperiment:
    """The experiment that `message` asks for, not yet planned. Raises InvalidRequest with every violation at once."""
    found = _text_faults(message)
    variants = _variants(message, found)
    found += _variant_faults(variants, catalog, in_factorial=message.HasField("factorial"))
    weights = (
        weights_of(message.traffic_allocation, len(variants), found)
        if message.traffic_allocation
        else buckets.rounded([1.0] * max(1, len(variants)))
    )
    metrics = list(_metrics(message.metrics, found))
    target = _target(message.targeting, variants, catalog, found)
    mode, floor = _adaptation(message.adaptation, weights, found)
    _plan_faults(message, found)
    stop_at = time_of(message.stop_at, "stop_at", found) if message.HasField("stop_at") else None
    if stop_at is not None and stop_at <= datetime.now(UTC):
        found.append(FieldViolation("stop_at", "future", "must lie in the future"))
    raise_for(found)
    effect = message.minimum_detectable_effect if message.HasField("minimum_detectable_effect") else None
    return NewExperiment(
        id=new_id("exp"),
        name=message.name.strip(),
        description=message.description,
        hypothesis=message.hypothesis,
        layer=message.layer,
        target=target,
        salt=secrets.token_hex(8),
        mode=mode,
        floor_buckets=floor,
        weights=weights,
        buckets=buckets.spread(weights),
        variants=variants,
        metrics=metrics,
        minimum_detectable_effect=effect,
        plan=PlanRecord(samples=message.planned_samples),
        factorial=MessageToDict(message.factorial) if message.HasField("factorial") else None,
        stop_at=stop_at,
    )


def _text_faults(message: messages.CreateExperimentRequest) -> list[FieldViolation]:
    found = text_faults({name: getattr(message, name) for name in _TEXTS}, _TEXTS)
    if not message.name.strip():
        found.append(FieldViolation("name", "required", "is required"))
    if not _LAYER.fullmatch(message.layer):
        found.append(FieldViolation("layer", "format", "must be at most 64 letters, digits, `.`, `_` and `-`"))
    return found


def _variants(message: messages.CreateExperimentRequest, found: list[FieldViolation]) -> list[VariantRecord]:
    given = [
        VariantRecord(new_id("var"), one.name.strip(), one.model_identifier, one.prompt, from_struct(one.parameters))
        for one in message.variants[: designs.VARIANTS_LIMIT]
    ]
    if not message.HasField("factorial"):
        if not 2 <= len(message.variants) <= designs.VARIANTS_LIMIT:
            found.append(FieldViolation("variants", "length", f"must be 2 to {designs.VARIANTS_LIMIT}"))
        return given
    if len(message.variants) > 1:
        fault = "must be one at most beside `factorial`: what its factors change"
        found.append(FieldViolation("variants", "length", fault))
    factors = designs.factors_of(message.factorial, found)
    if found:
        return []
    rows = designs.combinations_of(factors, message.factorial.reduction, found)
    base = given[0] if given else VariantRecord("", "base", "")
    return designs.variants_of(factors, rows, base) if not found else []


def _variant_faults(variants: Sequence[VariantRecord], catalog: Catalog, *, in_factorial: bool) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    names = [variant.name for variant in variants]
    media = _media_of(variants, catalog)
    if len(media) > 1:
        found.append(FieldViolation("variants", "media_type", "must all make the same kind of media"))
    for index, variant in enumerate(variants):
        path = f"variants[{index}]"
        found += text_faults({"prompt": variant.prompt}, {"prompt": PROMPT_LIMIT}, prefix=f"{path}.")
        if not in_factorial:
            found += text_faults({"name": variant.name}, {"name": _NAME_LIMIT}, prefix=f"{path}.")
        if not variant.name or names.count(variant.name) > 1:
            found.append(FieldViolation(f"{path}.name", "unique", "is required, and no two may be the same"))
        found += _model_faults(path, variant, catalog)
    return found


def _media_of(variants: Sequence[VariantRecord], catalog: Catalog) -> set[str]:
    models = [catalog.models.get(variant.model_identifier) for variant in variants]
    return {model.media_type for model in models if model is not None}


def _model_faults(path: str, variant: VariantRecord, catalog: Catalog) -> list[FieldViolation]:
    model = catalog.models.get(variant.model_identifier)
    if model is None:
        fault = f"there is no model {variant.model_identifier[:100]!r}; ListModels names those there are"
        return [FieldViolation(f"{path}.model_identifier", "exists", fault)]
    try:
        catalog.parameters(model, variant.parameters)
    except ValidationError as error:
        known = catalog.parameter_names(model)
        faults = violations(error, prefix=f"{path}.parameters", known=known)
        # What a variant leaves open, requests bring along.
        return [fault for fault in faults if fault.rule != "missing"]
    return []


def _metrics(given: Sequence[messages.Metric], found: list[FieldViolation]) -> Iterator[MetricRecord]:
    if not 1 <= len(given) <= _METRICS_LIMIT:
        found.append(FieldViolation("metrics", "length", f"must be 1 to {_METRICS_LIMIT}"))
    primaries = [metric for metric in given if metric.role == messages.METRIC_ROLE_PRIMARY]
    if given and len(primaries) != 1:
        found.append(FieldViolation("metrics", "primary", f"exactly one must be primary, not {len(primaries)}"))
    names = [metric.name for metric in given]
    for index, metric in enumerate(given[:_METRICS_LIMIT]):
        found += _metric_faults(f"metrics[{index}]", metric, names.count(metric.name))
        role, goal = _ROLES.get(metric.role), _GOALS.get(metric.goal)
        if role is not None and goal is not None:
            yield MetricRecord(metric.name, role, goal, metric.margin)


def _metric_faults(path: str, metric: messages.Metric, times: int) -> Iterator[FieldViolation]:
    if not _METRIC.fullmatch(metric.name):
        fault = "must be a letter and at most 63 more letters, digits, `_`, `.` and `-`"
        yield FieldViolation(f"{path}.name", "format", fault)
    if times > 1:
        yield FieldViolation(f"{path}.name", "unique", "no two may be the same")
    if metric.role not in _ROLES:
        yield FieldViolation(f"{path}.type", "one_of", "must be primary, secondary or guardrail")
    if metric.goal not in _GOALS:
        yield FieldViolation(f"{path}.goal", "one_of", "must be maximize or minimize")
    if metric.name == P95 and metric.role == messages.METRIC_ROLE_PRIMARY:
        fault = f"{P95} informs and guards, but does not decide: take avg_duration"
        yield FieldViolation(f"{path}.type", "primary", fault)
    if not 0 <= metric.margin <= _LARGEST:
        yield FieldViolation(f"{path}.margin", "range", f"must be from 0 to {_LARGEST:g}")
    if metric.margin and metric.role != messages.METRIC_ROLE_GUARDRAIL:
        yield FieldViolation(f"{path}.margin", "guardrail", "must be set for a guardrail only")


def _target(
    given: messages.Targeting, variants: Sequence[VariantRecord], catalog: Catalog, found: list[FieldViolation]
) -> TargetRecord:
    models = list(given.model_identifiers) or [variant.model_identifier for variant in variants[:1]]
    media = _media_of(variants, catalog)
    if len(models) > _MODELS_LIMIT:
        found.append(FieldViolation("targeting.model_identifiers", "length", f"must be at most {_MODELS_LIMIT}"))
    for index, name in enumerate(given.model_identifiers[:_MODELS_LIMIT]):
        model, path = catalog.models.get(name), f"targeting.model_identifiers[{index}]"
        if model is None:
            found.append(FieldViolation(path, "exists", f"there is no model {name[:100]!r}"))
        elif media and model.media_type not in media:
            found.append(FieldViolation(path, "media_type", "must make the same kind of media as the variants"))
    if len(given.api_key_ids) > _KEYS_LIMIT:
        found.append(FieldViolation("targeting.api_key_ids", "length", f"must be at most {_KEYS_LIMIT}"))
    found += _label_faults(given.labels)
    percent = given.traffic_percent if given.HasField("traffic_percent") else 100.0
    share = buckets_of(percent)
    if not share:
        fault = "must be above 0 to 100 percent, with at most two decimals"
        found.append(FieldViolation("targeting.traffic_percent", "percent", fault))
    return TargetRecord(models, list(given.api_key_ids), dict(given.labels), share or BUCKETS)


def _label_faults(labels: Mapping[str, str]) -> list[FieldViolation]:
    if len(labels) > _LABELS_LIMIT:
        return [FieldViolation("targeting.labels", "length", f"must be at most {_LABELS_LIMIT}")]
    return [
        FieldViolation("targeting.labels", "length", "keys have at most 64 characters and values 200, none of them NUL")
        for key, value in labels.items()
        if not 1 <= len(key) <= _LABEL_KEY_LIMIT or len(value) > _LABEL_VALUE_LIMIT or "\x00" in key + value
    ][:1]


def _adaptation(
    given: messages.Adaptation, weights: Sequence[int], found: list[FieldViolation]
) -> tuple[AllocationMode, int]:
    mode = _MODES.get(given.mode)
    if mode is None:
        found.append(FieldViolation("adaptation.mode", "one_of", "must be one of the modes"))
        mode = AllocationMode.FIXED
    percent = given.floor_percent if given.HasField("floor_percent") else min(_FLOOR_PERCENT, 50 / max(1, len(weights)))
    if not 1 <= percent <= _HIGHEST_FLOOR_PERCENT or percent * len(weights) > 100:
        fault = f"must be from 1 to {_HIGHEST_FLOOR_PERCENT:g} percent, and all of them together at most 100"
        found.append(FieldViolation("adaptation.floor_percent", "range", fault))
        return mode, 0
    return mode, int(percent * 100)


def _plan_faults(message: messages.CreateExperimentRequest, found: list[FieldViolation]) -> None:
    effect = message.minimum_detectable_effect
    if message.HasField("minimum_detectable_effect") and not 0 < effect <= _LARGEST:
        fault = f"must be above 0 and at most {_LARGEST:g}"
        found.append(FieldViolation("minimum_detectable_effect", "range", fault))
    if message.HasField("planned_samples") and message.planned_samples not in _SAMPLES:
        found.append(FieldViolation("planned_samples", "range", f"must be from {_SAMPLES[0]} to {_SAMPLES[-1]}"))
