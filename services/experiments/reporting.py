"""Results for who asks: brought up to date, read, reckoned, drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from darkroom.experiments.v1 import experiments_pb2 as messages
from google.protobuf.json_format import ParseDict

from libs.common.database.records_experiments import ExperimentRecord, Measured, SegmentRecord, SnapshotRecord
from libs.common.database.stores.experiment_measures import MeasureStore
from libs.common.database.stores.experiment_segments import SegmentKind, SegmentStore
from libs.common.errors import FieldViolation
from libs.common.rpc.requests import raise_for, text_faults
from services.experiments import plots
from services.experiments.analysis.percentiles import P95
from services.experiments.designs import Factor, factors_of
from services.experiments.history import Step, effects
from services.experiments.measuring import Measuring
from services.experiments.result_messages import results_message
from services.experiments.results import Asked, Results, results_of

_LABEL = "label:"
_KINDS: dict[str, SegmentKind] = {"user": "user", "weekday": "weekday", "api_key": "api_key", "model": "model"}
_NAME_LIMIT = 64
_PLOTS = {messages.PLOT_INTERVALS, messages.PLOT_EFFECT, messages.PLOT_ALLOCATION}
Segmentation = tuple[SegmentKind, str]


class Reporting:
    """Answers GetResults."""

    def __init__(self, measuring: Measuring, measures: MeasureStore, segments: SegmentStore) -> None:
        self._measuring = measuring
        self._measures = measures
        self._segments = segments

    async def report(
        self, experiment: ExperimentRecord, request: messages.GetResultsRequest, now: datetime
    ) -> messages.GetResultsResponse:
        """The results. InvalidRequest for what cannot be had."""
        segmentation = _segmentation(request, experiment)
        await self._measuring.catch_up()
        measured = await self._measures.read(experiment.id)
        segments: Sequence[SegmentRecord] = ()
        if segmentation is not None:
            kind, label = segmentation
            segments = await self._segments.read(experiment.id, kind, experiment.primary.name, label=label)
        snapshots: Sequence[SnapshotRecord] = ()
        if messages.PLOT_EFFECT in request.plots or request.with_history:
            snapshots = await self._measures.snapshots(experiment.id)
        asked = Asked(now, segments, request.value_metric)
        results = results_of(experiment, measured, _factors(experiment), asked)
        # Both take a processor's time, and the loop has others to serve.
        steps = await asyncio.to_thread(effects, experiment, snapshots, measured) if results.estimates else []
        drawn = await asyncio.to_thread(_draw, set(request.plots), results, measured, steps, now)
        return results_message(results, drawn, steps if request.with_history else ())


def _factors(experiment: ExperimentRecord) -> list[Factor]:
    if experiment.factorial is None:
        return []
    return factors_of(ParseDict(experiment.factorial, messages.Factorial()), [])


def _segmentation(request: messages.GetResultsRequest, experiment: ExperimentRecord) -> Segmentation | None:
    """By what results are to be cut; InvalidRequest with every fault of the request."""
    found: list[FieldViolation] = []
    wanted, label = request.segment_by, request.segment_by.removeprefix(_LABEL)
    is_label = wanted.startswith(_LABEL) and 1 <= len(label) <= _NAME_LIMIT and "\x00" not in label
    if wanted and wanted not in _KINDS and not is_label:
        fault = f"must be {', '.join(_KINDS)}, or {_LABEL} and a label's name"
        found.append(FieldViolation("segment_by", "one_of", fault))
    elif wanted and experiment.primary.name == P95:
        found.append(FieldViolation("segment_by", "metric", f"{P95} is not measured by segment"))
    found += text_faults({"value_metric": request.value_metric}, {"value_metric": _NAME_LIMIT})
    found += [
        FieldViolation(f"plots[{index}]", "one_of", "must be one of the plots")
        for index, plot in enumerate(request.plots)
        if plot not in _PLOTS
    ]
    raise_for(found)
    if not wanted:
        return None
    return ("label", label) if is_label else (_KINDS[wanted], "")


def _draw(
    wanted: set[messages.Plot.ValueType],
    results: Results,
    measured: Measured,
    steps: Sequence[Step],
    now: datetime,
) -> dict[int, str]:
    """The pictures; those of what is withheld are not drawn."""
    experiment = results.experiment
    drawn: dict[int, str] = {}
    if messages.PLOT_INTERVALS in wanted and results.estimates:
        drawn[messages.PLOT_INTERVALS] = plots.intervals_plot(results)
    if messages.PLOT_EFFECT in wanted and results.estimates:
        drawn[messages.PLOT_EFFECT] = plots.effect_plot(experiment, steps)
    if messages.PLOT_ALLOCATION in wanted:
        until = experiment.ended_at or now
        drawn[messages.PLOT_ALLOCATION] = plots.allocation_plot(experiment, measured.allocations, until)
    return drawn
