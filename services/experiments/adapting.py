"""What changes by itself while an experiment runs: shares, a variant that breaks a guardrail, the end."""

from __future__ import annotations

from dataclasses import replace

import grpc
import numpy as np
import structlog
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common import metrics
from libs.common.database.records_experiments import ExperimentRecord, NewAllocation
from libs.common.database.states import AllocationMode, ExperimentStatus
from libs.common.database.stores.experiment_measures import MeasureStore
from libs.common.database.stores.experiments import ExperimentStore
from libs.common.experiments.allocation import BUCKETS
from services.experiments import bandits, buckets
from services.experiments.analysis import words
from services.experiments.analysis.judging import Evidence, Judged, judged
from services.experiments.analysis.sequential import MINIMUM_UNITS

log = structlog.get_logger()
ALERT_TYPE = "EXPERIMENT_GUARDRAIL"
# A variant is taken out by a machine only where a person would not doubt it.
_CERTAIN = 0.01
# Less is not worth a change of anybody's variant.
_LEAST_CHANGE = BUCKETS // 100
_RPC_SECONDS = 10.0


class Adapting:
    """Looks at all running experiments."""

    def __init__(self, store: ExperimentStore, measures: MeasureStore, monitor: MonitorServiceStub) -> None:
        self._store = store
        self._measures = measures
        self._monitor = monitor
        self._random = np.random.default_rng()

    async def look(self) -> bool:
        """One turn over all that run."""
        for experiment_id in await self._store.complete_overdue():
            log.info("experiment completed, its time is over", experiment_id=experiment_id)
        for experiment in await self._store.running():
            if sum(1 for variant in experiment.variants if variant.paused_at is None) < 2:
                # One variant alone is no experiment: the others broke guardrails.
                await self._store.move(experiment.id, ExperimentStatus.PAUSED)
                continue
            if sum(1 for weight in experiment.weights if weight) < 2:
                # An operator has rolled one out: there is nothing to compare it with any more.
                continue
            evidence = Evidence(experiment, await self._measures.read(experiment.id))
            if evidence.split.is_mismatch:
                continue
            broken = broken_guardrail(evidence)
            if broken is not None:
                await self._take_out(experiment, broken)
            elif experiment.mode is not AllocationMode.FIXED:
                await self._adapt(experiment, evidence)
        return False

    async def tell(self) -> bool:
        """Tell people of variants that were taken out. At least once: one that dies in between tells twice."""
        for notice in await self._store.notices():
            message = (
                f"Experiment {notice.experiment_name!r} ({notice.experiment_id}): variant {notice.variant_name!r} was "
                f"taken out. {notice.reason}"
            )
            request = monitor_pb2.SendAlertRequest(
                type=ALERT_TYPE, severity=monitor_pb2.ALERT_SEVERITY_WARNING, message=message[:1_000]
            )
            try:
                await self._monitor.SendAlert(request, timeout=_RPC_SECONDS)
            except grpc.aio.AioRpcError as error:
                # The row keeps that nobody knows yet; the next turn tells.
                log.warning("monitor not reached, told later", code=error.code().name)
                return False
            await self._store.notified(notice.variant_id)
        return False

    async def _take_out(self, experiment: ExperimentRecord, broken: Judged) -> None:
        weights = without(experiment.weights, experiment.variants.index(broken.variant))
        reason = _reason(broken)
        allocation = _allocation(experiment, weights)
        if await self._store.reallocate(replace(allocation, reason="guardrail"), pause=(broken.variant.id, reason)):
            metrics.EXPERIMENT_VARIANTS_PAUSED.inc()
            log.warning("variant taken out", experiment_id=experiment.id, variant_id=broken.variant.id, reason=reason)

    async def _adapt(self, experiment: ExperimentRecord, evidence: Evidence) -> None:
        estimates = [
            None if variant.paused_at is not None else evidence.estimate(variant, experiment.primary.name)
            for variant in experiment.variants
        ]
        live = [variant.paused_at is None for variant in experiment.variants]
        enough = [estimate is not None and estimate.units >= MINIMUM_UNITS for estimate in estimates]
        if not all(known for known, is_live in zip(enough, live, strict=True) if is_live):
            return
        weights = bandits.adapted(
            experiment.mode,
            estimates,
            experiment.primary.sign,
            floor_buckets=experiment.floor_buckets,
            random=self._random,
        )
        change = max(abs(new - old) for new, old in zip(weights, experiment.weights, strict=True))
        if change >= _LEAST_CHANGE and await self._store.reallocate(_allocation(experiment, weights)):
            log.info("shares adapted", experiment_id=experiment.id, weights=weights)


def broken_guardrail(evidence: Evidence) -> Judged | None:
    """The variant that surely breaks a guardrail, and which; None: no variant does."""
    certain = [
        found
        for found in judged(evidence)
        if found.verdict == "broken" and found.adjusted_p_value < _CERTAIN and found.variant.paused_at is None
    ]
    return min(certain, key=lambda found: found.adjusted_p_value, default=None)


def without(weights: list[int], position: int) -> list[int]:
    """The weights once a variant is taken out: the others share its part as they share the rest."""
    left = [0 if place == position else weight for place, weight in enumerate(weights)]
    return buckets.rounded([weight / max(1, sum(left)) for weight in left])


def _allocation(experiment: ExperimentRecord, weights: list[int]) -> NewAllocation:
    changed = buckets.moved(experiment.buckets, weights)
    return NewAllocation(experiment.id, experiment.version, weights, changed, "bandit")


def _reason(broken: Judged) -> str:
    metric, difference = broken.metric, broken.compared.difference
    bounds = sorted((difference.low, difference.high), key=abs)
    low, high = (words.distance(metric.name, edge) for edge in bounds)
    way = "higher" if difference.value > 0 else "lower"
    return (
        f"It breaks the guardrail {words.label(metric.name)}: {words.distance(metric.name, difference.value)} {way} "
        f"than the control's (between {low} and {high}, {words.surprise(broken.adjusted_p_value)})."
    )
