"""What dashboards are made of: a panel is a title, a unit and queries; the rest is the same for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

Unit = Literal["reqps", "ops", "s", "percentunit", "currencyUSD", "bytes", "short", "Bps"]
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression, and how its series are called (`{{label}}`)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot over time, or a figure. `span`: of 24 columns."""

    title: str
    unit: Unit
    queries: Sequence[Query]
    description: str = ""
    kind: Literal["plot", "figure"] = "plot"
    span: int = 8


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard: rows of panels under their titles."""

    uid: str
    title: str
    rows: Sequence[tuple[str, Sequence[Panel]]]


def _target(query: Query, number: int) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).ref_id(chr(ord("A") + number)).datasource(DATASOURCE)
    return made.legend_format(query.legend) if query.legend else made


def _plot(panel: Panel) -> timeseries.Panel:
    made = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(DATASOURCE)
        .min(0)
        .span(panel.span)
        .height(8)
        .fill_opacity(10)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    for number, query in enumerate(panel.queries):
        made = made.with_target(_target(query, number))
    return made


def _figure(panel: Panel) -> stat.Panel:
    made = (
        stat.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(DATASOURCE)
        .span(panel.span)
        .height(4)
    )
    for number, query in enumerate(panel.queries):
        made = made.with_target(_target(query, number))
    return made


def to_json(board: Board) -> str:
    """The dashboard as Grafana imports it. The same board makes the same text."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["darkroom"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for title, panels in board.rows:
        made = made.with_row(dashboard.Row(title))
        for panel in panels:
            made = made.with_panel(_plot(panel) if panel.kind == "plot" else _figure(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"
