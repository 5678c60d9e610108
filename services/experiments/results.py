"""All that follows from what was measured of an experiment. Pure: the same rows give the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from libs.common.database.records_experiments import ExperimentRecord, Measured, SegmentRecord, VariantRecord
from libs.common.database.states import AllocationMode
from services.experiments.analysis import deciding
from services.experiments.analysis.costs import Cost, costs_of, saving_of
from services.experiments.analysis.deciding import Outlook, Winner
from services.experiments.analysis.effects import Effect, effects_of
from services.experiments.analysis.estimates import Estimate
from services.experiments.analysis.judging import Evidence, Judged, judged
from services.experiments.analysis.power import detectable_effect, power_of
from services.experiments.analysis.sample_ratio import Split
from services.experiments.analysis.segments import Segment, segments_of, warnings_of
from services.experiments.analysis.sequential import ALPHA
from services.experiments.designs import Factor

_DAY_SECONDS = 86_400.0
METHOD = (
    "Intervals and p-values are always-valid (asymptotic confidence sequences by a normal mixture): they hold however "
    "often one looks, and whenever one stops. `fixed_` ones hold for a single look. Users are the units; a generation "
    "without a user is one by itself."
)


@dataclass(frozen=True, slots=True)
class Came:
    """What came to a variant, and the plain mean of each metric that was measured; none while results are withheld."""

    variant: VariantRecord
    units: int
    expected_units: float
    generations: int
    in_flight: int
    cancelled: int
    means: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Strength:
    """What the samples can show. None: no minimum detectable effect was named, or there is not enough yet."""

    outlook: Outlook
    power: float | None
    detectable_effect: float | None


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured, how sure it is, and what follows. While results are withheld there are only counts."""

    experiment: ExperimentRecord
    counts: list[Came]
    split: Split
    strength: Strength
    reason: str
    estimates: list[tuple[VariantRecord, str, Estimate]] = field(default_factory=list)
    comparisons: list[Judged] = field(default_factory=list)
    winner: Winner | None = None
    segments: list[Segment] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    saving_usd: float | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: segments as they were read, the metric that says what a generation is worth, and the time."""

    now: datetime
    segments: Sequence[SegmentRecord] = ()
    value_metric: str = ""


def results_of(experiment: ExperimentRecord, measured: Measured, factors: Sequence[Factor], asked: Asked) -> Results:
    """The results."""
    evidence = Evidence(experiment, measured)
    split = evidence.split
    reason = deciding.withheld(experiment, split)
    counts = _counts(experiment, measured, split, has_means=not reason)
    strength = _strength(evidence, split, asked.now)
    if reason:
        return Results(experiment, counts, split, strength, reason)
    found = judged(evidence)
    in_flight = [(came.in_flight, came.generations) for came in counts]
    reason = deciding.waiting(experiment, split, in_flight)
    winner = None if reason else deciding.winner_of(evidence, found)
    segments = segments_of(evidence, asked.segments, found)
    return Results(
        experiment,
        counts,
        split,
        strength,
        "" if winner else reason or deciding.undecided(evidence, found, strength.outlook),
        _estimates(evidence),
        found,
        winner,
        segments,
        _effects(evidence, factors),
        costs_of(evidence, asked.value_metric),
        saving_of(evidence, winner.variant, _days(experiment, asked.now)) if winner else None,
        [*_warnings(evidence), *warnings_of(segments, found)],
    )


def _counts(experiment: ExperimentRecord, measured: Measured, split: Split, *, has_means: bool) -> list[Came]:
    return [
        Came(
            variant,
            split.units[position],
            split.expected[position],
            sum(one.generations for one in measured.arrivals if one.variant_id == variant.id),
            sum(one.generations - one.ended for one in measured.arrivals if one.variant_id == variant.id),
            sum(one.cancelled for one in measured.arrivals if one.variant_id == variant.id),
            _means(measured, variant) if has_means else {},
        )
        for position, variant in enumerate(experiment.variants)
    ]


def _means(measured: Measured, variant: VariantRecord) -> dict[str, float]:
    return {
        one.metric: one.total / one.samples for one in measured.sums if one.variant_id == variant.id and one.samples
    }


def _estimates(evidence: Evidence) -> list[tuple[VariantRecord, str, Estimate]]:
    return [
        (variant, metric.name, estimate)
        for metric in evidence.experiment.metrics
        for variant in evidence.experiment.variants
        if (estimate := evidence.estimate(variant, metric.name)) is not None
    ]


def _days(experiment: ExperimentRecord, now: datetime) -> float:
    """For how long it has run, pauses included, in days."""
    if experiment.started_at is None:
        return 0.0
    return ((experiment.ended_at or now) - experiment.started_at).total_seconds() / _DAY_SECONDS


def _strength(evidence: Evidence, split: Split, now: datetime) -> Strength:
    experiment = evidence.experiment
    units, planned = sum(split.units), experiment.plan.samples
    days = _days(experiment, now)
    remaining = max(0, planned - units)
    outlook = Outlook(units, planned, remaining * days / units if units else 0.0)
    lead = deciding.leading(evidence)
    if lead is None:
        return Strength(outlook, None, None)
    variant, compared = lead
    alpha = ALPHA / (len(experiment.variants) - 1)
    pair = evidence.planned_units(experiment.control, variant)
    effect = experiment.minimum_detectable_effect
    return Strength(
        outlook,
        None if effect is None else power_of(compared, effect, pair, alpha),
        detectable_effect(compared, pair, alpha),
    )


def _effects(evidence: Evidence, factors: Sequence[Factor]) -> list[Effect]:
    experiment = evidence.experiment
    cells = [
        (variant.levels, estimate)
        for variant in experiment.variants
        if (estimate := evidence.estimate(variant, experiment.primary.name)) is not None
    ]
    if not factors or len(cells) < len(experiment.variants):
        return []
    planned = experiment.plan.samples or evidence.planned_units(experiment.variants[0], experiment.variants[1])
    return effects_of(cells, {factor.name: factor.labels for factor in factors}, planned)


def _warnings(evidence: Evidence) -> list[str]:
    experiment, found = evidence.experiment, []
    if evidence.is_reweighted:
        found.append(
            "The shares have changed on the way: each value counts with one over the probability that its variant had "
            "then, and what users did before is not used."
        )
    if experiment.mode is not AllocationMode.FIXED:
        found.append("Shares adapt: variants that look bad get few samples, and their intervals stay wide.")
    found += [
        f"Variant {variant.name!r} was taken out. {variant.pause_reason}"
        for variant in experiment.variants
        if variant.paused_at is not None
    ]
    return found
