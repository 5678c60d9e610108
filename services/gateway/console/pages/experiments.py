"""Experiments: planned with live checks, looked at, started, stopped, rolled out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from darkroom.experiments.v1 import experiments_pb2

from libs.common.errors import FieldViolation, GenerationError, InvalidRequest
from libs.common.rpc.structs import to_struct
from services.gateway.console import charts, formats
from services.gateway.console.fields import Fields, Written
from services.gateway.console.lists import PAGE, ends_of
from services.gateway.console.metrics import written_by
from services.gateway.console.translations import gettext as _
from services.gateway.console.visit import Gone, Page, Visit

_PATH = "/admin/experiments"
_VARIANTS, _METRICS, _MOST_ROWS = 3, 3, 20
METRICS = ("avg_cost", "success_rate", "avg_duration", "p95_duration", "user_rating")
ROLES = ("PRIMARY", "SECONDARY", "GUARDRAIL")
GOALS = ("MINIMIZE", "MAXIMIZE")
MODES = ("FIXED", "THOMPSON", "TOP_TWO")
_FIRST = Written(
    {
        "variant_0_name": "control",
        "metric_0_name": "avg_cost",
        "metric_0_role": "PRIMARY",
        "metric_0_goal": "MINIMIZE",
        "metric_1_name": "success_rate",
        "metric_1_role": "GUARDRAIL",
        "metric_1_goal": "MAXIMIZE",
        "metric_1_margin": "0.02",
    }
)


async def show(visit: Visit) -> Page:
    """The list."""
    request = experiments_pb2.ListExperimentsRequest(page_size=PAGE, page_token=visit.before or "")
    found = await visit.peer(visit.parts.experiment.ListExperiments, request)
    values = {"experiments": found.experiments, "ends": ends_of(visit.request, found.next_page_token or None)}
    return Page("experiments.html", values)


async def new(visit: Visit) -> Page:
    """An empty form."""
    return _form(visit, _FIRST)


async def create(visit: Visit) -> Page | Gone:
    """Plan it; or show the form again with what is wrong, or with another row."""
    written = visit.fields.written()
    if "more" in written:
        return _form(visit, written)
    try:
        answer = await visit.peer(visit.parts.experiment.CreateExperiment, _request(visit.fields))
    except GenerationError as error:
        if not error.violations:
            raise
        return _form(visit, written, error)
    return Gone(f"{_PATH}/{answer.experiment.id}", "experiment_made")


async def check(visit: Visit) -> Page:
    """What is wrong with a form as it stands, or how many samples it takes: asked while somebody writes."""
    values: dict[str, Any] = {"error": None, "plan": None}
    try:
        request = _request(visit.fields)
        request.validate_only = True
        answer = await visit.peer(visit.parts.experiment.CreateExperiment, request)
        values["plan"] = answer.experiment.plan
    except GenerationError as error:
        if not error.violations:
            raise
        values["error"] = error
    return Page("experiment_check.html", values)


async def show_one(visit: Visit) -> Page:
    """One experiment: its variants side by side, the verdict, and plots."""
    request = experiments_pb2.GetResultsRequest(id=visit.named("id"), with_history=True)
    results = await visit.peer(visit.parts.experiment.GetResults, request)
    experiment = results.experiment
    names = {variant.id: variant.name for variant in experiment.variants}
    primary = next(metric for metric in experiment.metrics if metric.role == experiments_pb2.METRIC_ROLE_PRIMARY)
    values = {
        "experiment": experiment,
        "results": results,
        "names": names,
        "primary": primary,
        "measured": {(one.variant_id, one.metric): one for one in results.metrics},
        "counts": {one.variant_id: one for one in results.counts},
        "costs": {one.variant_id: one for one in results.costs},
        "compared": {(one.variant_id, one.metric): one for one in results.comparisons},
        "write": written_by,
        "interval_charts": _interval_charts(results, names),
        "effect_chart": _effect_chart(results, names, primary.name),
    }
    return Page("experiment.html", values)


async def start(visit: Visit) -> Gone:
    """Let it run."""
    return await _moved(
        visit, visit.parts.experiment.StartExperiment, experiments_pb2.StartExperimentRequest, "started"
    )


async def pause(visit: Visit) -> Gone:
    """Stop allocating."""
    return await _moved(visit, visit.parts.experiment.PauseExperiment, experiments_pb2.PauseExperimentRequest, "paused")


async def complete(visit: Visit) -> Gone:
    """End it."""
    call, request = visit.parts.experiment.CompleteExperiment, experiments_pb2.CompleteExperimentRequest
    return await _moved(visit, call, request, "completed")


async def roll_out(visit: Visit) -> Gone:
    """Give all traffic to one variant."""
    experiment_id, wanted = visit.named("id"), visit.fields.text("variant_id")
    experiments = visit.parts.experiment
    found = await visit.peer(experiments.GetExperiment, experiments_pb2.GetExperimentRequest(id=experiment_id))
    places = [place for place, variant in enumerate(found.experiment.variants) if variant.id == wanted]
    if not places:
        raise InvalidRequest([FieldViolation("variant_id", "exists", "must be a variant of the experiment")])
    request = experiments_pb2.ChangeAllocationRequest(
        id=experiment_id, traffic_allocation={f"variant_{places[0]}": 100.0}
    )
    await visit.peer(experiments.ChangeAllocation, request)
    return Gone(f"{_PATH}/{experiment_id}", "rolled_out")


async def _moved(visit: Visit, call: Any, request: Any, word: str) -> Gone:
    experiment_id = visit.named("id")
    await visit.peer(call, request(id=experiment_id))
    return Gone(f"{_PATH}/{experiment_id}", f"experiment_{word}")


def _form(visit: Visit, written: Written, error: GenerationError | None = None) -> Page:
    values = {
        "written": written,
        "error": error,
        "variant_rows": range(_rows(written, "variant", _VARIANTS)),
        "metric_rows": range(_rows(written, "metric", _METRICS)),
        "models": sorted(visit.parts.catalog.current.models),
        "metrics": METRICS,
        "roles": ROLES,
        "goals": GOALS,
        "modes": MODES,
    }
    return Page("experiment_new.html", values, 200 if error is None else 400)


def _rows(written: Mapping[str, str], kind: str, least: int) -> int:
    used = [int(name.split("_")[1]) for name in written if name.startswith(f"{kind}_") and _is_row(name)]
    return min(_MOST_ROWS, max([least, *(place + 1 for place in used)]) + (written.get("more") == kind))


def _is_row(name: str) -> bool:
    place = name.split("_")[1]
    return place.isascii() and place.isdigit() and len(place) <= 2


def _request(fields: Fields) -> experiments_pb2.CreateExperimentRequest:
    """The experiment that a form asks for. InvalidRequest for what is no number, no time or no JSON."""
    variants, shares = _variants(fields)
    request = experiments_pb2.CreateExperimentRequest(
        name=fields.text("name"),
        hypothesis=fields.text("hypothesis"),
        description=fields.text("description"),
        layer=fields.text("layer"),
        variants=variants,
        traffic_allocation=shares,
        metrics=_metrics(fields),
        minimum_detectable_effect=fields.number("minimum_detectable_effect"),
        planned_samples=fields.whole("planned_samples"),
    )
    if (percent := fields.number("traffic_percent")) is not None:
        request.targeting.traffic_percent = percent
    mode = fields.text("mode")
    if mode in MODES:
        request.adaptation.mode = experiments_pb2.AllocationMode.Value(f"ALLOCATION_MODE_{mode}")
    if (stop_at := fields.time("stop_at")) is not None:
        request.stop_at.FromDatetime(stop_at)
    fields.check()
    return request


def _variants(fields: Fields) -> tuple[list[experiments_pb2.Variant], dict[str, float]]:
    variants: list[experiments_pb2.Variant] = []
    shares: dict[str, float] = {}
    for row in range(_MOST_ROWS):
        name, model = fields.text(f"variant_{row}_name"), fields.text(f"variant_{row}_model")
        if not model:
            continue
        share = fields.number(f"variant_{row}_share")
        if share is not None:
            shares[f"variant_{len(variants)}"] = share
        parameters = to_struct(fields.json_object(f"variant_{row}_parameters"))
        prompt = fields.text(f"variant_{row}_prompt")
        variants.append(
            experiments_pb2.Variant(name=name, model_identifier=model, prompt=prompt, parameters=parameters)
        )
    return variants, shares


def _metrics(fields: Fields) -> list[experiments_pb2.Metric]:
    found = []
    for row in range(_MOST_ROWS):
        name = fields.text(f"metric_{row}_name")
        if not name:
            continue
        role, goal = fields.text(f"metric_{row}_role"), fields.text(f"metric_{row}_goal")
        found.append(
            experiments_pb2.Metric(
                name=name,
                role=experiments_pb2.MetricRole.Value(f"METRIC_ROLE_{role if role in ROLES else 'UNSPECIFIED'}"),
                goal=experiments_pb2.MetricGoal.Value(f"METRIC_GOAL_{goal if goal in GOALS else 'UNSPECIFIED'}"),
                margin=fields.number(f"metric_{row}_margin") or 0.0,
            )
        )
    return found


def _interval_charts(results: experiments_pb2.GetResultsResponse, names: Mapping[str, str]) -> list[tuple[str, Any]]:
    """For each metric, the values of the variants with their intervals."""
    found = []
    for metric in results.experiment.metrics:
        rows = [
            charts.Range(names[one.variant_id], one.value, one.low, one.high)
            for one in results.metrics
            if one.metric == metric.name
        ]
        if rows:
            label = _("%(metric)s by variant, with 95 %% intervals") % {"metric": metric.name}
            found.append((metric.name, charts.ranges(rows, label, written_by(metric.name), zero=None)))
    return found


def _effect_chart(results: experiments_pb2.GetResultsResponse, names: Mapping[str, str], metric: str) -> Any:
    """How the difference from the control went; None while there is none to see."""
    times = sorted({one.at.ToDatetime() for one in results.history})
    if not times:
        return None
    series = []
    for variant in results.experiment.variants[1:]:
        points = [one for one in results.history if one.variant_id == variant.id]
        if len(points) == len(times):
            series.append(_line(names[variant.id], points))
    label = _("Difference in %(metric)s from the control over time, with bounds that hold at any look")
    at = [formats.instant(point.at) for point in results.history if point.variant_id == results.history[0].variant_id]
    return charts.lines([one for one in at if one], series, label % {"metric": metric}, written_by(metric))


def _line(name: str, points: Sequence[experiments_pb2.EffectPoint]) -> charts.Line:
    return charts.Line(
        name,
        [point.difference.value for point in points],
        [point.difference.low for point in points],
        [point.difference.high for point in points],
    )
