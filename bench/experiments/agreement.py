"""Our figures beside those of two other libraries, on the examples that they publish and on the same random samples."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.special import stdtrit

from bench.experiments.peers import others
from bench.experiments.simulated import NOW, sums_of, sums_of_values
from libs.common.database.records_experiments import (
    DURATION_GROWTH,
    AllocationRecord,
    ArrivalsRecord,
    DurationRecord,
    SumsRecord,
)
from services.experiments.analysis.comparing import Compared, compare
from services.experiments.analysis.corrections import benjamini_hochberg, holm
from services.experiments.analysis.effects import effects_of
from services.experiments.analysis.estimates import adjustment_of, estimate_of
from services.experiments.analysis.percentiles import p95_of
from services.experiments.analysis.power import Before, needed_units
from services.experiments.analysis.sample_ratio import split_of
from services.experiments.analysis.sequential import ALPHA, always_valid_p, boundary

_PEER = Path(__file__).parent / "peers/growthbook.py"
_PYTHON = Path(sys.prefix) / "gbstats/bin/python"
_PLANNED = 5_000


@dataclass(frozen=True, slots=True)
class Case:
    """A question: where it is from, what the other library is asked, and our figures by name."""

    name: str
    source: str
    question: dict[str, Any] | None
    ours: Mapping[str, float]
    theirs: Mapping[str, float] | None = None


def agreement(random: np.random.Generator) -> Table:
    """The table: metric by metric, the largest relative difference."""
    cases = [*_growthbook(random), *_statsmodels(random)]
    answers = _ask({case.name: case.question for case in cases if case.question is not None})
    table = Table("metric", "beside", "figures", "largest relative difference", title="Agreement with other libraries")
    for case in cases:
        theirs = case.theirs if case.question is None else (answers or {}).get(case.name)
        if theirs is None:
            table.add_row(case.name, case.source, "left out: it is not installed", "")
            continue
        differences = {name: _relative(case.ours[name], theirs[name]) for name in case.ours}
        figures = ", ".join(f"{name} {case.ours[name]:.6g}" for name in case.ours)
        table.add_row(case.name, case.source, figures, f"{max(differences.values()):.1e}")
    return table


def _relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


def _ask(questions: Mapping[str, Any]) -> dict[str, dict[str, float]] | None:
    """What GrowthBook's engine says; None where it is not installed (it needs Python 3.11 or 3.12)."""
    if not _PYTHON.exists():
        return None
    asked = subprocess.run(
        [_PYTHON, _PEER], input=json.dumps(questions), capture_output=True, text=True, check=True, timeout=120
    )
    answered: dict[str, dict[str, float]] = json.loads(asked.stdout)
    return answered


def _compared(control: SumsRecord, variant: SumsRecord, *, is_rate: bool = False) -> Compared:
    base, other = (estimate_of(sums, is_rate=is_rate) for sums in (control, variant))
    assert base is not None
    assert other is not None
    found = compare(base, other, planned_units=_PLANNED, adjustment=adjustment_of(control, variant))
    assert found is not None
    return found


def _side(sums: SumsRecord, *names: str) -> dict[str, Any]:
    return {"n": sums.units, **{name: getattr(sums, name) for name in ("m", "mm", *names)}}


def _growthbook(random: np.random.Generator) -> Iterator[Case]:
    # The example of GrowthBook's own tests: means of 0.41 and 0.70, deviations of 3.9 and 6.2.
    control = sums_of("a", "value", 3_407, 1_396.87, 52_377.9767)
    variant = sums_of("b", "value", 3_461, 2_422.7, 134_698.29)
    found = _compared(control, variant)
    sides = {"control": _side(control), "variant": _side(variant)}
    assert found.ratio is not None
    for kind, ranged in (("absolute", found.difference), ("relative", found.ratio)):
        figures = {"value": ranged.value, "low": ranged.fixed_low, "high": ranged.fixed_high}
        if kind == "absolute":
            figures["p"] = found.fixed_p_value
        yield Case(f"Welch's test, {kind}", "gbstats, its own example", {"kind": kind, **sides}, figures)
    width = boundary(found.units, _PLANNED, ALPHA) * found.deviation
    value = found.difference.value
    raw = {
        "low": value - width,
        "high": value + width,
        "p": always_valid_p(value / found.deviation, found.units, _PLANNED),
    }
    question = {"kind": "sequential", "planned": _PLANNED, **sides}
    yield Case("always-valid, before Student's t", "gbstats, its own example", question, raw)
    corrected = {"low": found.difference.low, "high": found.difference.high, "p": found.p_value}
    yield Case("always-valid, as it is shown", "gbstats, its own example", question, corrected)
    chances = {"chance": found.chance_above(), "loss": found.expected_loss(1)}
    yield Case("chance and loss", "gbstats, its own example", {"kind": "bayesian", **sides}, chances)
    yield _ratio(random)
    yield _before(random)
    yield _split()
    yield _quantile(random)


def _ratio(random: np.random.Generator) -> Case:
    """Users with several generations each."""
    made = []
    for name, mean in (("a", 10.0), ("b", 10.5)):
        counts = random.poisson(3, 2_000) + 1.0
        values = counts * random.normal(mean, 3, 2_000)
        made.append(
            SumsRecord(
                name,
                "value",
                int(counts.sum()),
                float(values.sum()),
                2_000,
                float(values.sum()),
                float(counts.sum()),
                float((values**2).sum()),
                float((counts**2).sum()),
                float((values * counts).sum()),
            )
        )  # fmt: skip
    found = _compared(made[0], made[1])
    sides = {name: _side(sums, "d", "dd", "md") for name, sums in zip(("control", "variant"), made, strict=True)}
    figures = {
        "value": found.difference.value,
        "low": found.difference.fixed_low,
        "high": found.difference.fixed_high,
        "p": found.fixed_p_value,
    }
    return Case("users as units (delta method)", "gbstats", {"kind": "absolute", **sides}, figures)


def _before(random: np.random.Generator) -> Case:
    """Users of whom something is known from before."""
    made = []
    for name, mean in (("a", 10.0), ("b", 10.2)):
        before = random.normal(10, 3, 4_000)
        values = before * 0.8 + random.normal(mean * 0.2, 1.5, 4_000)
        sums = sums_of_values(name, "value", values)
        made.append(
            SumsRecord(
                name,
                "value",
                sums.samples,
                sums.total,
                sums.units,
                sums.m,
                sums.d,
                sums.mm,
                sums.dd,
                sums.md,
                float(before.sum()),
                4_000.0,
                float((before**2).sum()),
                4_000.0,
                float(before.sum()),
                float((values * before).sum()),
                float(values.sum()),
                float(before.sum()),
                4_000.0,
            )
        )  # fmt: skip
    found = _compared(made[0], made[1])
    sides = {name: _side(sums, "a", "aa", "ma") for name, sums in zip(("control", "variant"), made, strict=True)}
    figures = {
        "value": found.difference.value,
        "low": found.difference.fixed_low,
        "high": found.difference.fixed_high,
    }
    return Case("less variance by what was before", "gbstats", {"kind": "absolute", **sides}, figures)


def _split() -> Case:
    users, weights = [1_000, 1_090, 1_020], [0.3, 0.35, 0.35]
    arrivals = [ArrivalsRecord(1, f"v{place}", number, number, number, 0) for place, number in enumerate(users)]
    buckets = [int(weight * 10_000) for weight in weights]
    allocation = AllocationRecord(1, buckets, "planned", NOW)
    split = split_of(arrivals, [allocation], {f"v{place}": place for place in range(3)})
    return Case("sample ratio", "gbstats", {"users": users, "weights": weights}, {"p": split.p_value})


def _quantile(random: np.random.Generator) -> Case:
    """The 95th percentile of skewed durations: theirs from the samples themselves, ours from buckets."""
    sides, estimates = {}, []
    for name, mean in (("control", 2.0), ("variant", 2.1)):
        values = np.sort(random.lognormal(mean, 1.0, 20_000))
        reach = 1.96 * math.sqrt(0.95 * 0.05 / len(values))
        at = [float(np.quantile(values, 0.95 + shift)) for shift in (0, -reach, reach)]
        quantile = {"n": 20_000, "n_star": 20_000, "nu": 0.95}
        sides[name] = {
            "quantile": {**quantile, "quantile_hat": at[0], "quantile_lower": at[1], "quantile_upper": at[2]}
        }
        places, counts = np.unique(np.ceil(np.log(values * 1_000) / math.log(DURATION_GROWTH)), return_counts=True)
        estimate = p95_of(
            [DurationRecord("v", int(place), int(count), float(count), float(count)) for place, count in zip(
                places, counts, strict=True)]
        )  # fmt: skip
        assert estimate is not None
        estimates.append(estimate)
    found = compare(estimates[0], estimates[1], planned_units=_PLANNED)
    assert found is not None
    figures = {
        "value": found.difference.value,
        "low": found.difference.fixed_low,
        "high": found.difference.fixed_high,
    }
    return Case("95th percentiles, from buckets of 2 %", "gbstats", {"kind": "absolute", **sides}, figures)


def _statsmodels(random: np.random.Generator) -> Iterator[Case]:
    # Newcombe's example, Statistics in Medicine 17 (1998): 56 of 70 and 48 of 80.
    found = _compared(sums_of("a", "success_rate", 80, 48, 48), sums_of("b", "success_rate", 70, 56, 56), is_rate=True)
    ours = {"low": found.difference.fixed_low, "high": found.difference.fixed_high}
    yield Case("two proportions (Student's t)", "statsmodels, Newcombe's example", None, ours,
               others.two_proportions((48, 56), (80, 70)))  # fmt: skip
    normal = {
        name: found.difference.value + sign * 1.959963984540054 * found.deviation for name, sign in
        (("low", -1), ("high", 1))
    }  # fmt: skip
    yield Case("two proportions (normal)", "statsmodels, Newcombe's example", None, normal,
               others.two_proportions((48, 56), (80, 70)))  # fmt: skip
    control, variant = random.lognormal(2, 1, 400), random.lognormal(2.1, 1.2, 300)
    compared = _compared(sums_of_values("a", "value", control), sums_of_values("b", "value", variant))
    figures = {
        "low": compared.difference.fixed_low,
        "high": compared.difference.fixed_high,
        "p": compared.fixed_p_value,
    }
    yield Case("Welch's test, skewed", "statsmodels", None, figures, others.welch(list(control), list(variant)))
    needed = needed_units(Before(0.0, 4.0), 0.2, [0.5, 0.5], is_rate=False).fixed_horizon
    theirs = math.ceil(others.samples(0.2, 2.0, 0.8, 0.05))
    yield Case("sample size", "statsmodels", None, {"samples": needed}, {"samples": theirs})
    p_values = [float(value) for value in random.random(12) ** 3]
    for name, correct, method in (("Holm", holm, "holm"), ("Benjamini and Hochberg", benjamini_hochberg, "fdr_bh")):
        told = dict(zip(map(str, range(12)), others.corrected(p_values, method), strict=True))
        yield Case(name, "statsmodels", None, dict(zip(map(str, range(12)), correct(p_values), strict=True)), told)
    yield _factorial(random)


def _factorial(random: np.random.Generator) -> Case:
    """Two factors of two levels: effects by cells beside a regression on all samples."""
    cells, columns, values = [], [[], [], []], []  # type: tuple[list[Any], list[list[float]], list[float]]
    for one in (0, 1):
        for other in (0, 1):
            drawn = random.normal(1 + 0.5 * one - 0.3 * other + 0.2 * one * other, 1 + one, 500)
            estimate = estimate_of(sums_of_values("v", "value", drawn), is_rate=False)
            cells.append(({"one": str(one), "other": str(other)}, estimate))
            for column, level in zip(columns, (one - 0.5, other - 0.5, (one - 0.5) * (other - 0.5)), strict=True):
                column.extend([level] * len(drawn))
            values += [float(value) for value in drawn]
    effects = effects_of(cells, {"one": ["0", "1"], "other": ["0", "1"]}, _PLANNED)
    theirs = others.coefficients(columns, values)
    names = ("one", "other", "both")
    ours = {name: effect.effect.value for name, effect in zip(names, effects, strict=True)}
    reach = float(stdtrit(2_000 - 4, 0.975))
    ours |= {
        f"{name}'s error": (effect.effect.fixed_high - effect.effect.value) / reach
        for name, effect in zip(names, effects, strict=True)
    }
    told = {name: value for name, (value, _) in zip(names, theirs, strict=True)}
    told |= {f"{name}'s error": error for name, (_, error) in zip(names, theirs, strict=True)}
    return Case("factorial effects", "statsmodels", None, ours, told)
