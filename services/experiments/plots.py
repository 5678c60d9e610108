"""Pictures of results, as SVG: intervals by variant, the effect over time, the shares over time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from numpy.typing import NDArray

from libs.common.database.records_experiments import AllocationRecord, ExperimentRecord
from libs.common.experiments.allocation import BUCKETS
from services.experiments.analysis import words
from services.experiments.analysis.comparing import interval
from services.experiments.analysis.estimates import RATES, Estimate
from services.experiments.history import Step
from services.experiments.results import Results

# Okabe and Ito's colours, which the colour-blind tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
# The same picture is the same bytes.
mpl.rcParams["svg.hashsalt"] = "darkroom"
_WIDTH_INCHES, _ROW_INCHES, _HEIGHT_INCHES = 8.0, 0.45, 3.8
_NAME_LIMIT = 40


def intervals_plot(results: Results) -> str:
    """Each variant's mean with its 95 % interval for a single look, a panel for each metric."""
    metrics = [metric.name for metric in results.experiment.metrics]
    variants = results.experiment.variants
    height = len(metrics) * (1.0 + _ROW_INCHES * len(variants))
    figure, axes = _figure(height, rows=len(metrics))
    names = [_short(variant.name) for variant in variants]
    for panel, metric in zip(axes, metrics, strict=True):
        rows = {variants.index(variant): estimate for variant, name, estimate in results.estimates if name == metric}
        _interval_rows(panel, rows, metric)
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.set_title(words.titled(metric), loc="left", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    return _svg(figure, "Means with 95 % intervals")


def _interval_rows(panel: Axes, rows: dict[int, Estimate], metric: str) -> None:
    scale = _scale(metric)
    for row, estimate in rows.items():
        low, high = interval(estimate, is_rate=metric in RATES)
        panel.plot([low * scale, high * scale], [row, row], color=_COLOURS[row % len(_COLOURS)], linewidth=2)
        panel.plot([estimate.value * scale], [row], "o", color=_COLOURS[row % len(_COLOURS)])


def effect_plot(experiment: ExperimentRecord, steps: Sequence[Step]) -> str:
    """The primary metric's difference from the control over time, with its always-valid bounds."""
    metric = experiment.primary.name
    scale = _scale(metric)
    figure, (panel,) = _figure(_HEIGHT_INCHES)
    for position, variant in enumerate(experiment.variants[1:], start=1):
        points = [(step.at, step.compared) for step in steps if step.variant is variant]
        times = _times([at for at, _ in points])
        colour = _COLOURS[position % len(_COLOURS)]
        lows = [compared.difference.low * scale for _, compared in points]
        highs = [compared.difference.high * scale for _, compared in points]
        panel.fill_between(times, lows, highs, color=colour, alpha=0.15, linewidth=0)
        values = [compared.difference.value * scale for _, compared in points]
        panel.plot(times, values, color=colour, marker=".", label=_short(variant.name))
    panel.axhline(0, color="black", linewidth=0.8)
    _over_time(panel)
    panel.set_ylabel(f"difference in {words.titled(metric)}")
    _legend(panel)
    return _svg(figure, "Effect over time, with bounds that hold at any look")


def allocation_plot(experiment: ExperimentRecord, allocations: Sequence[AllocationRecord], until: datetime) -> str:
    """The shares of the variants over time, stacked to 100 %."""
    # Shares that were changed before it ran were never in force.
    first = experiment.started_at or until
    times = _times([*(max(first, allocation.began_at) for allocation in allocations), until])
    shares = [
        [allocation.weights[position] * 100 / BUCKETS for allocation in [*allocations, allocations[-1]]]
        for position in range(len(experiment.variants))
    ]
    figure, (panel,) = _figure(_HEIGHT_INCHES)
    colours = [_COLOURS[position % len(_COLOURS)] for position in range(len(shares))]
    names = [_short(variant.name) for variant in experiment.variants]
    panel.stackplot(times, shares, labels=names, colors=colours, alpha=0.8, step="post")
    panel.set_ylim(0, 100)
    panel.set_ylabel("share, percent")
    _over_time(panel)
    _legend(panel)
    return _svg(figure, "Shares over time")


def _figure(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    FigureCanvasSVG(figure)
    panels = [figure.add_subplot(rows, 1, row + 1) for row in range(rows)]
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _times(times: Sequence[datetime]) -> NDArray[np.datetime64]:
    return np.array([at.astimezone(UTC).replace(tzinfo=None) for at in times], dtype="datetime64[us]")


def _over_time(panel: Axes) -> None:
    locator = AutoDateLocator()
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    panel.grid(alpha=0.3)


def _legend(panel: Axes) -> None:
    panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def _scale(metric: str) -> int:
    """Shares are shown in percent."""
    return 100 if metric in RATES else 1


def _short(name: str) -> str:
    # A dollar would be read as mathematics.
    short = name if len(name) <= _NAME_LIMIT else f"{name[: _NAME_LIMIT - 1]}…"
    return short.replace("$", r"\$")


def _svg(figure: Figure, title: str) -> str:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    return file.getvalue().decode()
