"""How many samples an experiment takes and for how long, by what its model did before."""

from __future__ import annotations

from dataclasses import replace

from libs.common.database.records_experiments import MetricRecord, NewExperiment, PlanRecord, SumsRecord
from libs.common.database.states import MetricRole
from libs.common.database.stores.experiment_traffic import BASELINE_DAYS, TRAFFIC_DAYS, TrafficStore
from services.experiments.analysis import words
from services.experiments.analysis.estimates import RATES, estimate_of
from services.experiments.analysis.power import POWER, Before, needed_units

# A variance from fewer says nothing.
_LEAST_UNITS = 30
_MOST_SAMPLES = 100_000_000


async def planned(new: NewExperiment, store: TrafficStore) -> NewExperiment:
    """The experiment with its plan: samples as given, or as its minimum detectable effect needs them."""
    primary = next(metric for metric in new.metrics if metric.role is MetricRole.PRIMARY)
    traffic = await store.traffic(new.target)
    before = await store.baseline(new.variants[0].model_identifier, primary.name)
    plan = _plan(new, primary, before)
    days = plan.samples / traffic.units_per_day if traffic.units_per_day else 0.0
    return replace(new, plan=replace(plan, days=days, samples_per_day=traffic.units_per_day))


def _plan(new: NewExperiment, primary: MetricRecord, before: SumsRecord) -> PlanRecord:
    metric, effect, given = primary.name, new.minimum_detectable_effect, new.plan.samples
    estimate = estimate_of(before, is_rate=metric in RATES)
    baseline = estimate.value if estimate else None
    if given:
        return PlanRecord(samples=given, baseline=baseline, note="As many samples as were asked for.")
    if effect is None:
        return PlanRecord(baseline=baseline, note="Nothing is planned: no minimum detectable effect was named.")
    if estimate is None or estimate.units < _LEAST_UNITS or estimate.variance <= 0:
        note = (
            f"Nothing is planned: in the last {BASELINE_DAYS} days {new.variants[0].model_identifier} made too few "
            f"generations to know how {words.label(metric)} varies."
        )
        return PlanRecord(baseline=baseline, note=note)
    needed = needed_units(
        Before(estimate.centre, estimate.variance * estimate.units),
        effect * primary.sign,
        [weight / sum(new.weights) for weight in new.weights],
        is_rate=metric in RATES,
    )
    if needed.always_valid > _MOST_SAMPLES:
        note = f"Nothing is planned: to find so small a difference takes more than {_MOST_SAMPLES:,} samples."
        return PlanRecord(baseline=baseline, note=note)
    note = (
        f"To find a difference of {words.distance(metric, effect)} in {words.label(metric)}, which was "
        f"{words.amount(metric, estimate.value)}, with a power of {POWER:.0%}, looking as often as one likes; the days "
        f"are by the traffic of the last {TRAFFIC_DAYS}."
    )
    return PlanRecord(needed.always_valid, needed.fixed_horizon, baseline=baseline, note=note)
