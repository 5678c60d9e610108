"""Pictures: whole documents that say who is who, the same for the same figures."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from xml.parsers import expat

from bench.experiments.simulated import NOW
from libs.common.database.records_experiments import AllocationRecord, SnapshotRecord
from services.experiments import plots
from services.experiments.history import effects
from services.experiments.results import Asked, results_of
from tests.unit.test_experiment_decisions import experiment, measured

SIDES = [(2_000, 0.04, 0.99), (2_000, 0.03, 0.98)]


def _texts(svg: str) -> str:
    names: list[str] = []
    parser = expat.ParserCreate()
    parser.StartElementHandler = lambda name, _: names.append(name)
    parser.Parse(svg, True)
    assert names[0] == "svg"
    # Letters are drawn as shapes; what they say stands beside them.
    return svg


def test_intervals() -> None:
    made = experiment()
    results = results_of(made, measured(SIDES), [], Asked(NOW))
    svg = plots.intervals_plot(results)
    for word in ("a", "b", "cost, US dollars", "success rate, percent", "Means with 95 % intervals"):
        assert f"<!-- {word} -->" in _texts(svg)
    assert plots.intervals_plot(results) == svg


def test_hostile_names_stay_names() -> None:
    made = experiment()
    named = replace(made.variants[1], name="--><script>$x^{y$" + "n" * 200)
    made = replace(made, variants=[made.variants[0], named])
    svg = plots.intervals_plot(results_of(made, measured(SIDES), [], Asked(NOW)))
    assert "<script" not in _texts(svg)


def test_effect_over_time() -> None:
    made = experiment()
    snapshots = [
        SnapshotRecord(NOW - timedelta(hours=hours), sums)
        for hours, units in ((3, 100), (2, 500), (1, 2_000))
        for sums in measured([(units, 0.04, 0.99), (units, 0.03, 0.98)]).sums
    ]
    svg = plots.effect_plot(made, effects(made, snapshots, measured(SIDES)))
    assert "<!-- difference in cost, US dollars -->" in _texts(svg)
    assert "<!-- b -->" in svg
    assert "<!-- a -->" not in svg


def test_shares_over_time() -> None:
    made = experiment()
    shares = [
        AllocationRecord(1, [5_000, 5_000], "planned", NOW - timedelta(hours=3)),
        AllocationRecord(2, [1_000, 9_000], "bandit", NOW - timedelta(hours=1)),
    ]
    svg = plots.allocation_plot(made, shares, NOW)
    assert "<!-- share, percent -->" in _texts(svg)
    assert "<!-- a -->" in svg
