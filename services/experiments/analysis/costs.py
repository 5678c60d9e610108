"""What the variants cost, and what the winner would save."""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.database.records_experiments import VariantRecord
from services.experiments.analysis.judging import Evidence

_DAYS = 30
# A shorter time says nothing of a month.
_LEAST_DAYS = 1 / 24


@dataclass(frozen=True, slots=True)
class Cost:
    """In US dollars; `return_per_usd` None: no value metric, or nothing spent."""

    variant: VariantRecord
    spend_usd: float
    per_success_usd: float
    return_per_usd: float | None


def costs_of(evidence: Evidence, value_metric: str) -> list[Cost]:
    """What each variant cost."""
    return [_cost(evidence, variant, value_metric) for variant in evidence.experiment.variants]


def _cost(evidence: Evidence, variant: VariantRecord, value_metric: str) -> Cost:
    spend, successes = _total(evidence, variant, "avg_cost"), _total(evidence, variant, "success_rate")
    value = _total(evidence, variant, value_metric) if value_metric else None
    return Cost(
        variant,
        spend,
        spend / successes if successes else 0.0,
        value / spend if value is not None and spend else None,
    )


def _total(evidence: Evidence, variant: VariantRecord, metric: str) -> float:
    sums = evidence.sums(variant, metric)
    return sums.total if sums else 0.0


def saving_of(evidence: Evidence, winner: VariantRecord, days: float) -> float | None:
    """Saved in thirty days if the winner took all of the traffic, in US dollars; None where nobody can tell.

    `days`: for how long the experiment has run. Traffic that takes no part counts as the control's.
    """
    experiment = evidence.experiment
    means = {variant.id: evidence.estimate(variant, "avg_cost") for variant in experiment.variants}
    best, control = means[winner.id], means[experiment.control.id]
    if best is None or control is None or days < _LEAST_DAYS:
        return None
    inside = sum((mean.value - best.value) * mean.samples for mean in means.values() if mean is not None)
    taking_part = sum(mean.samples for mean in means.values() if mean is not None)
    share = experiment.target.traffic_buckets / 10_000
    outside = (control.value - best.value) * taking_part * (1 - share) / share
    return (inside + outside) / days * _DAYS
