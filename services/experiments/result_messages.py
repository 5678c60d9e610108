"""Results as messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from darkroom.experiments.v1 import experiments_pb2 as messages

from libs.common.database.records_experiments import RATING_METRIC
from libs.common.rpc.messages import timestamp
from services.experiments.analysis.comparing import Compared, Range, interval
from services.experiments.analysis.effects import Effect
from services.experiments.analysis.estimates import RATES
from services.experiments.analysis.judging import Judged
from services.experiments.analysis.segments import Segment
from services.experiments.history import Step
from services.experiments.messages import experiment_message
from services.experiments.results import METHOD, Came, Results, Strength


def results_message(results: Results, plots: Mapping[int, str], history: Sequence[Step]) -> messages.GetResultsResponse:
    """The results as people see them, with the pictures that were drawn and how the difference went."""
    winner = results.winner
    return messages.GetResultsResponse(
        experiment=experiment_message(results.experiment),
        metrics=_metrics(results),
        winner=messages.Winner(
            variant_id=winner.variant.id, confidence=winner.confidence, recommendation=winner.recommendation
        )
        if winner
        else None,
        reason=results.reason,
        counts=_counts(results),
        sample_ratio=messages.SampleRatio(p_value=results.split.p_value, is_mismatch=results.split.is_mismatch),
        comparisons=[_judged(results, found) for found in results.comparisons],
        power=_power(results.strength),
        segments=[_segment(results, segment) for segment in results.segments],
        effects=[_effect(effect) for effect in results.effects],
        costs=[
            messages.VariantCost(
                variant_id=cost.variant.id,
                spend_usd=cost.spend_usd,
                per_success_usd=cost.per_success_usd,
                return_per_usd=cost.return_per_usd,
            )
            for cost in results.costs
        ],
        projected_saving_usd=results.saving_usd,
        plots=[messages.PlotImage(plot=messages.Plot.ValueType(plot), svg=svg) for plot, svg in plots.items()],
        warnings=results.warnings,
        method=METHOD,
        variants=[_variant(came) for came in results.counts],
        history=[
            messages.EffectPoint(
                at=timestamp(step.at), variant_id=step.variant.id, difference=_interval(step.compared.difference)
            )
            for step in history
        ],
    )


def _variant(came: Came) -> messages.VariantResult:
    means = came.means
    stats = messages.VariantStats(
        total_requests=came.generations,
        success_rate=means.get("success_rate"),
        avg_duration=means.get("avg_duration"),
        avg_cost=means.get("avg_cost"),
        avg_rating=means.get(RATING_METRIC),
    )
    return messages.VariantResult(variant_id=came.variant.id, stats=stats)


def _metrics(results: Results) -> list[messages.VariantMetric]:
    found = []
    for variant, metric, estimate in results.estimates:
        low, high = interval(estimate, is_rate=metric in RATES)
        found.append(
            messages.VariantMetric(
                variant_id=variant.id,
                metric=metric,
                samples=estimate.samples,
                value=estimate.value,
                low=low,
                high=high,
            )
        )
    return found


def _counts(results: Results) -> list[messages.VariantCount]:
    return [
        messages.VariantCount(
            variant_id=came.variant.id,
            units=came.units,
            expected_units=came.expected_units,
            generations=came.generations,
            in_flight=came.in_flight,
            cancelled=came.cancelled,
        )
        for came in results.counts
    ]


def _judged(results: Results, found: Judged) -> messages.Comparison:
    sign = found.metric.sign
    message = _comparison(results, found.variant.id, found.metric.name, found.compared, sign)
    message.adjusted_p_value, message.p_value, message.verdict = found.adjusted_p_value, found.p_value, found.verdict
    return message


def _comparison(results: Results, variant_id: str, metric: str, compared: Compared, sign: int) -> messages.Comparison:
    above = compared.chance_above()
    return messages.Comparison(
        variant_id=variant_id,
        against_id=results.experiment.control.id,
        metric=metric,
        difference=_interval(compared.difference),
        ratio=_interval(compared.ratio) if compared.ratio is not None else None,
        p_value=compared.p_value,
        fixed_p_value=compared.fixed_p_value,
        chance_to_beat=above if sign > 0 else 1 - above,
        expected_loss=compared.expected_loss(sign),
        variance_reduction=compared.variance_reduction,
    )


def _interval(found: Range) -> messages.Interval:
    return messages.Interval(
        value=found.value, low=found.low, high=found.high, fixed_low=found.fixed_low, fixed_high=found.fixed_high
    )


def _power(strength: Strength) -> messages.Power:
    outlook = strength.outlook
    return messages.Power(
        samples=outlook.samples,
        planned_samples=outlook.planned,
        remaining_samples=max(0, outlook.planned - outlook.samples),
        remaining_days=outlook.remaining_days,
        power=strength.power,
        detectable_effect=strength.detectable_effect,
    )


def _segment(results: Results, segment: Segment) -> messages.Segment:
    primary = results.experiment.primary
    comparisons = []
    for one in segment.comparisons:
        message = _comparison(results, one.variant.id, primary.name, one.compared, primary.sign)
        message.adjusted_p_value, message.verdict = one.adjusted_p_value, one.verdict
        comparisons.append(message)
    return messages.Segment(
        value=segment.value, samples=segment.samples, comparisons=comparisons, reverses=segment.reverses
    )


def _effect(found: Effect) -> messages.Effect:
    return messages.Effect(
        factors=[factor for factor, _ in found.term.parts],
        levels=[level for _, level in found.term.parts],
        effect=_interval(found.effect),
        adjusted_p_value=found.adjusted_p_value,
        aliases=found.aliases,
    )
