"""Who has won, and in which words; or why nobody has yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.database.records_experiments import ExperimentRecord, MetricRecord, VariantRecord
from libs.common.database.states import ExperimentStatus, MetricRole
from services.experiments.analysis import words
from services.experiments.analysis.comparing import Compared
from services.experiments.analysis.judging import Evidence, Judged
from services.experiments.analysis.sample_ratio import Split
from services.experiments.analysis.sequential import ALPHA, MINIMUM_UNITS

# Of what came to a variant; what takes long would be missing, and that is not like the rest.
_IN_FLIGHT = 0.05


@dataclass(frozen=True, slots=True)
class Winner:
    """The best variant; `confidence` in percent."""

    variant: VariantRecord
    confidence: float
    recommendation: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is missing, in samples and in days; 0: nothing, or nobody knows."""

    samples: int
    planned: int
    remaining_days: float


def withheld(experiment: ExperimentRecord, split: Split) -> str:
    """Why no result may be shown; empty: nothing speaks against it."""
    if not split.is_mismatch:
        return ""
    shares = words.listed(
        [
            f"{variant.name!r} got {units:,} where {expected:,.0f} were to be expected"
            for variant, units, expected in zip(experiment.variants, split.units, split.expected, strict=True)
        ]
    )
    return (
        f"Results are withheld: the split is not the planned one ({shares}; {words.surprise(split.p_value)}). "
        "Something keeps requests of one variant away or counts them twice; what was measured cannot be trusted."
    )


def waiting(experiment: ExperimentRecord, split: Split, in_flight: Sequence[tuple[int, int]]) -> str:
    """Why it is too early to name a winner; empty: it is not. `in_flight`: not ended and all, variant by variant."""
    if experiment.started_at is None:
        return "The experiment has not started."
    for variant, units in zip(experiment.variants, split.units, strict=True):
        if units < MINIMUM_UNITS and variant.paused_at is None:
            return f"Too few samples: {units} came to {variant.name!r}, and no less than {MINIMUM_UNITS} say anything."
    for variant, (open_, generations) in zip(experiment.variants, in_flight, strict=True):
        if open_ > _IN_FLIGHT * generations:
            return (
                f"{open_:,} of {generations:,} generations of {variant.name!r} have not ended; those that take "
                "long would be missing."
            )
    return ""


def winner_of(evidence: Evidence, found: Sequence[Judged]) -> Winner | None:
    """The variant that is better than every other in the primary metric and breaks no guardrail.

    To be named wrongly it would have to beat one that is not worse, so each of all but one gets an equal part of the
    5 % (an intersection-union test, corrected for the number of variants).
    """
    experiment = evidence.experiment
    eligible = _eligible(experiment, found)
    correction = len(experiment.variants) - 1
    for variant in eligible:
        rivals = [other for other in eligible if other is not variant]
        beaten = [(rival, _beats(evidence, variant, rival)) for rival in rivals]
        known = [(rival, p_value) for rival, p_value in beaten if p_value is not None]
        if not known or len(known) < len(rivals):
            continue
        rival, p_value = max(known, key=lambda pair: pair[1])
        if p_value * correction < ALPHA:
            recommendation = _recommendation(evidence, found, variant, rival)
            return Winner(variant, 100 * (1 - p_value * correction), recommendation)
    return None


def _eligible(experiment: ExperimentRecord, found: Sequence[Judged]) -> list[VariantRecord]:
    broken = {judged.variant.id for judged in found if judged.verdict == "broken"}
    return [variant for variant in experiment.variants if variant.id not in broken and variant.paused_at is None]


def _beats(evidence: Evidence, variant: VariantRecord, rival: VariantRecord) -> float | None:
    """The p-value with which it does; 1 where it looks worse, None where there is too little."""
    primary = evidence.experiment.primary
    compared = evidence.compare(rival, variant, primary.name)
    if compared is None:
        return None
    return compared.p_value if compared.score * primary.sign > 0 else 1.0


def _recommendation(evidence: Evidence, found: Sequence[Judged], variant: VariantRecord, rival: VariantRecord) -> str:
    experiment = evidence.experiment
    is_control = variant is experiment.control
    base = rival if is_control else experiment.control
    verb = "Keep" if is_control else "Take"
    gains = _told(evidence, variant, base, experiment.primary)
    verdicts = {(judged.variant.id, judged.metric.name): judged for judged in found}
    sides = []
    for metric in experiment.metrics:
        if metric.role is not MetricRole.PRIMARY and (told := _told(evidence, variant, base, metric)):
            judged = verdicts.get(((rival if is_control else variant).id, metric.name))
            sides.append(told + _certainty(judged))
    beside = f" with {words.listed(sides)}" if sides else ""
    return f"{verb} {variant.name!r} ({variant.model_identifier}): {gains}{beside}, beside {base.name!r}."


def _certainty(judged: Judged | None) -> str:
    if judged is None or judged.verdict == "open":
        is_guardrail = judged is not None and judged.metric.role is MetricRole.GUARDRAIL
        return ", not yet shown to be within its margin" if is_guardrail else ", which may be chance"
    return ", within its margin" if judged.verdict == "kept" else ""


def _told(evidence: Evidence, variant: VariantRecord, base: VariantRecord, metric: MetricRecord) -> str:
    own, other = evidence.estimate(variant, metric.name), evidence.estimate(base, metric.name)
    if own is None or other is None:
        return ""
    pair = f"({words.amount(metric.name, own.value)} against {words.amount(metric.name, other.value)})"
    if own.value == other.value:
        return f"the same {words.label(metric.name)} {pair}"
    return f"{words.change(metric.name, own.value, other.value)} {pair}"


def leading(evidence: Evidence) -> tuple[VariantRecord, Compared] | None:
    """The variant that looks best beside the control in the primary metric."""
    experiment = evidence.experiment
    alpha = ALPHA / (len(experiment.variants) - 1)
    compared = [
        (variant, found)
        for variant in experiment.variants[1:]
        if (found := evidence.compare(experiment.control, variant, experiment.primary.name, alpha=alpha)) is not None
    ]
    sign = experiment.primary.sign
    return max(compared, key=lambda pair: pair[1].difference.value * sign, default=None)


def undecided(evidence: Evidence, found: Sequence[Judged], outlook: Outlook) -> str:
    """Why there is no winner yet."""
    experiment = evidence.experiment
    lead = leading(evidence)
    if lead is None:
        return f"Nothing was measured yet that tells variants apart in {words.label(experiment.primary.name)}."
    variant, compared = lead
    told = _told(evidence, variant, experiment.control, experiment.primary)
    so_far = f"{variant.name!r} has {told} beside {experiment.control.name!r}"
    if why := _kept_from_winning(found, variant):
        return f"No winner: {so_far}, but {why}."
    certain = compared.p_value * (len(experiment.variants) - 1) < ALPHA
    doubt = (
        "but cannot be told from another variant"
        if certain
        else f"which may be chance ({words.surprise(compared.p_value)}, however often one looks)"
    )
    return f"No winner yet: {so_far}, {doubt}.{_missing(experiment, outlook)}"


def _kept_from_winning(found: Sequence[Judged], variant: VariantRecord) -> str:
    broken = [
        words.label(judged.metric.name) for judged in found if judged.variant is variant and judged.verdict == "broken"
    ]
    if broken:
        return f"it breaks the guardrail {words.listed(broken)}"
    return f"it was taken out: {variant.pause_reason}" if variant.paused_at is not None else ""


def _missing(experiment: ExperimentRecord, outlook: Outlook) -> str:
    if not outlook.planned:
        return ""
    if outlook.samples >= outlook.planned:
        return (
            f" All {outlook.planned:,} planned samples have come: a difference worth finding would probably have shown."
        )
    so_far = f" {outlook.samples:,} of {outlook.planned:,} planned samples have come"
    if experiment.status is ExperimentStatus.COMPLETED:
        return f"{so_far}, and no more will."
    if outlook.remaining_days:
        return f"{so_far}; the rest takes {words.significant(outlook.remaining_days, 2)} days as it goes."
    return f"{so_far}."
