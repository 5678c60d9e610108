"""Each variant beside the control, metric by metric, with p-values corrected and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from libs.common.database.records_experiments import ExperimentRecord, Measured, MetricRecord, SumsRecord, VariantRecord
from libs.common.database.states import MetricRole
from services.experiments.analysis.comparing import Compared, compare
from services.experiments.analysis.corrections import benjamini_hochberg, holm
from services.experiments.analysis.estimates import RATES, Adjustment, Estimate, adjustment_of, estimate_of
from services.experiments.analysis.percentiles import P95, p95_of
from services.experiments.analysis.sample_ratio import Split, split_of
from services.experiments.analysis.sequential import ALPHA, DEFAULT_PLANNED_UNITS

Verdict = Literal["better", "worse", "open", "broken", "kept"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A variant beside the control in one metric. `p_value` is always-valid; of a guardrail, beside its margin."""

    variant: VariantRecord
    metric: MetricRecord
    compared: Compared
    p_value: float
    adjusted_p_value: float
    verdict: Verdict


class Evidence:
    """What was measured of an experiment, as estimates and comparisons."""

    def __init__(self, experiment: ExperimentRecord, measured: Measured) -> None:
        self.experiment = experiment
        self.measured = measured
        self._sums = {(found.variant_id, found.metric): found for found in measured.sums}
        came = {arrival.version for arrival in measured.arrivals if arrival.units}
        self.is_reweighted = len(came) > 1

    @property
    def split(self) -> Split:
        """What came to each variant, beside what was to be expected."""
        positions = {variant.id: position for position, variant in enumerate(self.experiment.variants)}
        return split_of(self.measured.arrivals, self.measured.allocations, positions)

    def sums(self, variant: VariantRecord, metric: str) -> SumsRecord | None:
        """The sums of a metric in a variant."""
        return self._sums.get((variant.id, metric))

    def estimate(self, variant: VariantRecord, metric: str) -> Estimate | None:
        """The mean of a metric in a variant."""
        if metric == P95:
            return p95_of([found for found in self.measured.durations if found.variant_id == variant.id])
        sums = self.sums(variant, metric)
        return None if sums is None else estimate_of(sums, is_rate=metric in RATES)

    def planned_units(self, one: VariantRecord, other: VariantRecord) -> float:
        """How many units are to come to the two of them."""
        experiment = self.experiment
        if not experiment.plan.samples:
            return DEFAULT_PLANNED_UNITS
        weights = dict(zip((variant.id for variant in experiment.variants), self._first_weights(), strict=True))
        return experiment.plan.samples * (weights[one.id] + weights[other.id]) / sum(weights.values())

    def compare(
        self, control: VariantRecord, variant: VariantRecord, metric: str, *, alpha: float = ALPHA
    ) -> Compared | None:
        """A variant beside another; None while there is too little."""
        base, other = self.estimate(control, metric), self.estimate(variant, metric)
        if base is None or other is None:
            return None
        planned = self.planned_units(control, variant)
        adjustment = self._adjustment(control, variant, metric)
        return compare(base, other, planned_units=planned, alpha=alpha, adjustment=adjustment)

    def _adjustment(self, control: VariantRecord, variant: VariantRecord, metric: str) -> Adjustment | None:
        sums = self.sums(control, metric), self.sums(variant, metric)
        if self.is_reweighted or sums[0] is None or sums[1] is None:
            return None
        return adjustment_of(sums[0], sums[1])

    def _first_weights(self) -> list[int]:
        allocations = self.measured.allocations
        return allocations[0].weights if allocations else self.experiment.weights


def judged(evidence: Evidence) -> list[Judged]:
    """All comparisons with the control. Primary metric and guardrails never wrong in any (Holm), the others rarely."""
    experiment = evidence.experiment
    others = experiment.variants[1:]
    found: list[Judged] = []
    for role in MetricRole:
        metrics = [metric for metric in experiment.metrics if metric.role is role]
        found += _of_role(evidence, role, [(metric, variant) for metric in metrics for variant in others])
    return found


def _of_role(evidence: Evidence, role: MetricRole, pairs: Sequence[tuple[MetricRecord, VariantRecord]]) -> list[Judged]:
    control = evidence.experiment.control
    alpha = ALPHA if role is MetricRole.SECONDARY else ALPHA / max(1, len(pairs))
    open_: list[tuple[MetricRecord, VariantRecord, Compared, float, float]] = []
    for metric, variant in pairs:
        compared = evidence.compare(control, variant, metric.name, alpha=alpha)
        if compared is None:
            continue
        score, p_value = compared.score, compared.p_value
        if role is MetricRole.GUARDRAIL:
            # What is still well lies on the other side of none.
            threshold = -metric.sign * metric.margin
            score, p_value = compared.p_value_beside(threshold, evidence.planned_units(control, variant))
        open_.append((metric, variant, compared, score, p_value))
    correct = benjamini_hochberg if role is MetricRole.SECONDARY else holm
    corrected = correct([p_value for *_, p_value in open_])
    return [
        Judged(variant, metric, compared, p_value, adjusted, _verdict(metric, score, adjusted))
        for (metric, variant, compared, score, p_value), adjusted in zip(open_, corrected, strict=True)
    ]


def _verdict(metric: MetricRecord, score: float, p_value: float) -> Verdict:
    is_guardrail = metric.role is MetricRole.GUARDRAIL
    if p_value >= ALPHA:
        return "open"
    if score * metric.sign > 0:
        return "kept" if is_guardrail else "better"
    return "broken" if is_guardrail else "worse"
