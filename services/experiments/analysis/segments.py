"""The primary metric segment by segment, and whether one of them reverses the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from libs.common.database.records_experiments import Measured, SegmentRecord, VariantRecord
from services.experiments.analysis.comparing import Compared
from services.experiments.analysis.corrections import benjamini_hochberg
from services.experiments.analysis.judging import Evidence, Judged, Verdict
from services.experiments.analysis.sequential import ALPHA


@dataclass(frozen=True, slots=True)
class SegmentComparison:
    """A variant beside the control in one segment."""

    variant: VariantRecord
    compared: Compared
    adjusted_p_value: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Segment:
    """What happened in one segment."""

    value: str
    samples: int
    comparisons: list[SegmentComparison]
    reverses: bool


def segments_of(evidence: Evidence, found: Sequence[SegmentRecord], whole: Sequence[Judged]) -> list[Segment]:
    """The segments, with p-values corrected for all of them together (Benjamini and Hochberg)."""
    by_segment: defaultdict[str, list[SegmentRecord]] = defaultdict(list)
    for record in found:
        by_segment[record.segment].append(record)
    open_ = [
        (segment, variant, compared)
        for segment, records in by_segment.items()
        for variant, compared in _compared(evidence, records)
    ]
    corrected = benjamini_hochberg([compared.p_value for *_, compared in open_])
    sign = evidence.experiment.primary.sign
    comparisons: defaultdict[str, list[SegmentComparison]] = defaultdict(list)
    for (segment, variant, compared), p_value in zip(open_, corrected, strict=True):
        is_better = compared.score * sign > 0
        verdict: Verdict = "open" if p_value >= ALPHA else "better" if is_better else "worse"
        comparisons[segment].append(SegmentComparison(variant, compared, p_value, verdict))
    verdicts = {judged.variant.id: judged.verdict for judged in whole if judged.metric is evidence.experiment.primary}
    return [
        Segment(
            segment,
            sum(record.sums.samples for record in records),
            comparisons[segment],
            any(_reverses(one.verdict, verdicts.get(one.variant.id, "open")) for one in comparisons[segment]),
        )
        for segment, records in by_segment.items()
    ]


def _compared(evidence: Evidence, records: Sequence[SegmentRecord]) -> list[tuple[VariantRecord, Compared]]:
    experiment, measured = evidence.experiment, evidence.measured
    part = Evidence(
        experiment, Measured([record.sums for record in records], measured.arrivals, [], measured.allocations)
    )
    return [
        (variant, compared)
        for variant in experiment.variants[1:]
        if (compared := part.compare(experiment.control, variant, experiment.primary.name)) is not None
    ]


def _reverses(one: Verdict, whole: Verdict) -> bool:
    return {one, whole} == {"better", "worse"}


def warnings_of(segments: Sequence[Segment], whole: Sequence[Judged]) -> list[str]:
    """What to keep in mind of segments: one that reverses the whole, or all of them (Simpson's paradox)."""
    found = [
        f"Segment {segment.value!r} reverses the whole: what is better for all is worse there, or the other way round."
        for segment in segments
        if segment.reverses
    ]
    for judged in whole:
        differences = [
            one.compared.difference.value
            for segment in segments
            for one in segment.comparisons
            if one.variant.id == judged.variant.id
        ]
        own = judged.compared.difference.value
        if judged.metric.role == "PRIMARY" and len(differences) > 1 and all(own * other < 0 for other in differences):
            found.append(
                f"Every segment says the opposite of the whole for {judged.variant.name!r} (Simpson's paradox): the "
                "segments are not spread evenly over the variants. Trust the segments."
            )
    return found
