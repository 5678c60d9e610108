"""Simulated experiments: units with values, looked at as the service would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from libs.common.database.records_experiments import (
    AllocationRecord,
    ArrivalsRecord,
    ExperimentRecord,
    Measured,
    MetricRecord,
    PlanRecord,
    SumsRecord,
    TargetRecord,
    VariantRecord,
)
from libs.common.database.states import AllocationMode, ExperimentStatus, MetricGoal, MetricRole
from services.experiments import buckets
from services.experiments.analysis.comparing import Compared
from services.experiments.analysis.judging import Evidence
from services.experiments.results import Asked, Results, results_of

NOW = datetime(2026, 1, 8, tzinfo=UTC)
Values = NDArray[np.float64]
Places = NDArray[np.int64]


def experiment_with(metric: str, variants: int = 2, *, planned: int = 0) -> ExperimentRecord:
    """A running experiment with equal shares that decides by `metric`, of which more is better."""
    weights = buckets.rounded([1.0] * variants)
    return ExperimentRecord(
        id="exp_1",
        name="simulated",
        description="",
        hypothesis="",
        status=ExperimentStatus.RUNNING,
        layer="",
        layer_ranges=[[0, 10_000]],
        target=TargetRecord(["flux-pro"]),
        salt="salt",
        mode=AllocationMode.FIXED,
        floor_buckets=0,
        buckets=buckets.spread(weights),
        version=1,
        minimum_detectable_effect=None,
        plan=PlanRecord(samples=planned),
        factorial=None,
        stop_at=None,
        created_at=NOW - timedelta(days=7),
        started_at=NOW - timedelta(days=7),
        ended_at=None,
        updated_at=NOW,
        variants=[VariantRecord(f"var_{place}", f"variant {place}", "flux-pro") for place in range(variants)],
        metrics=[MetricRecord(metric, MetricRole.PRIMARY, MetricGoal.MAXIMIZE)],
    )


class Cumulated:
    """Samples in the order in which they came: what was measured after any number of them.

    Args:
        experiment: whose they are.
        places: the position of the variant of each.
        values: the value of each.
    """

    def __init__(self, experiment: ExperimentRecord, places: Places, values: Values) -> None:
        self.experiment = experiment
        self._metric = experiment.metrics[0].name
        chosen = [places == place for place in range(len(experiment.variants))]
        self._units = [np.cumsum(mine) for mine in chosen]
        self._sums = [np.cumsum(np.where(mine, values, 0.0)) for mine in chosen]
        self._squares = [np.cumsum(np.where(mine, values * values, 0.0)) for mine in chosen]

    def after(self, samples: int) -> Measured:
        """What was measured by then."""
        last = samples - 1
        sums = [
            sums_of(variant.id, self._metric, int(units[last]), float(total[last]), float(squares[last]))
            for variant, units, total, squares in zip(
                self.experiment.variants, self._units, self._sums, self._squares, strict=True
            )
        ]
        arrivals = [ArrivalsRecord(1, one.variant_id, one.units, one.units, one.units, 0) for one in sums]
        return Measured(sums, arrivals, [], [AllocationRecord(1, self.experiment.weights, "planned", NOW)])

    def compared(self, samples: int) -> Compared:
        """The first variant beside the control by then, whatever the split."""
        variants = self.experiment.variants
        found = Evidence(self.experiment, self.after(samples)).compare(variants[0], variants[1], self._metric)
        assert found is not None
        return found

    def results(self, samples: int) -> Results:
        """What the service would say by then."""
        return results_of(self.experiment, self.after(samples), [], Asked(NOW))


def sums_of(variant_id: str, metric: str, units: int, total: float, squares: float) -> SumsRecord:
    """The sums of so many units with one value each."""
    return SumsRecord(
        variant_id, metric, samples=units, total=total, units=units, m=total, d=units, mm=squares, dd=units, md=total
    )


def sums_of_values(variant_id: str, metric: str, values: Sequence[float] | Values) -> SumsRecord:
    """The sums of values, a unit each."""
    found = np.asarray(values, dtype=np.float64)
    return sums_of(variant_id, metric, len(found), float(found.sum()), float((found**2).sum()))


def planned(experiment: ExperimentRecord, samples: int) -> ExperimentRecord:
    """The experiment with another plan."""
    return replace(experiment, plan=PlanRecord(samples=samples))
