"""Percents of traffic as people write them, and as buckets."""

from __future__ import annotations

import math
from collections.abc import Mapping

from libs.common.database.records_experiments import ExperimentRecord
from libs.common.errors import FieldViolation
from libs.common.experiments.allocation import BUCKETS
from libs.common.rpc.requests import raise_for


def changed_weights(allocation: Mapping[str, float], record: ExperimentRecord) -> list[int]:
    """Percents as buckets for an experiment that is planned or runs: 0 takes a variant out, and 100 rolls one out.

    Raises InvalidRequest, also for a share of a variant that broke a guardrail.
    """
    found: list[FieldViolation] = []
    weights = weights_of(allocation, len(record.variants), found, least=0)
    found += [
        FieldViolation(f"traffic_allocation['variant_{place}']", "paused", f"must be 0: {variant.pause_reason}")
        for place, (variant, weight) in enumerate(zip(record.variants, weights, strict=True))
        if weight and variant.paused_at is not None
    ]
    raise_for(found)
    return weights


def weights_of(
    allocation: Mapping[str, float], variants: int, found: list[FieldViolation], *, least: int = 1
) -> list[int]:
    """Percents by `variant_0`, `variant_1`, … as buckets; what is wrong with them is added to `found`."""
    names = [f"variant_{position}" for position in range(variants)]
    faults = [
        FieldViolation(f"traffic_allocation[{name!r}]", "unknown", f"there are {', '.join(names)} only")
        for name in sorted(allocation.keys() - set(names))
    ]
    weights = []
    for name in names:
        share = buckets_of(allocation.get(name, 0.0))
        if share is None or share < least:
            fault = f"must be {'above ' if least else ''}0 to 100 percent, with at most two decimals"
            faults.append(FieldViolation(f"traffic_allocation[{name!r}]", "percent", fault))
        weights.append(share or 0)
    if not faults and sum(weights) != BUCKETS:
        whole = f"must sum to 100 percent, not to {sum(weights) / 100:g}"
        faults.append(FieldViolation("traffic_allocation", "sum", whole))
    found += faults
    return weights


def buckets_of(percent: float) -> int | None:
    """A percent with at most two decimals as hundredths of a percent."""
    if not math.isfinite(percent) or not 0 <= percent <= 100:
        return None
    nearest = round(percent * 100)
    return nearest if math.isclose(nearest, percent * 100, abs_tol=1e-6) else None
