"""A/B experiments whose truth is known: how often intervals hold it, and how often it is found at the planned size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.experiments.simulated import Cumulated, Values, experiment_with, planned, sums_of_values
from services.experiments.analysis.comparing import Range
from services.experiments.analysis.estimates import RATES, estimate_of
from services.experiments.analysis.power import Before, Needed, needed_units

_BEFORE = 5_000
_LOOKS = 20
_RUNS_OF_A_PLAN = 100
Draw = Callable[[np.random.Generator, int], Values]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is measured; the control's values and the variant's, and their true difference."""

    name: str
    metric: str
    control: Draw
    variant: Draw
    effect: float


def _rate(share: float) -> Draw:
    return lambda random, size: (random.random(size) < share).astype(float)


def _duration(scale: float) -> Draw:
    return lambda random, size: scale * random.lognormal(2.0, 1.0, size)


_MEAN_SECONDS = float(np.exp(2.5))
KINDS = (
    Kind("success rate of 92 % and 95 %", "success_rate", _rate(0.92), _rate(0.95), 0.03),
    Kind("durations of 12.2 and 13.4 s, log-normal", "avg_duration", _duration(1.0), _duration(1.1),
         0.1 * _MEAN_SECONDS),
)  # fmt: skip


@dataclass(slots=True)
class Covered:
    """Shares of runs, 0 to 1. `power`: found at the planned size; `ever`: at one of twenty looks until then.

    Samples are the mean of all plans.
    """

    samples: float = 0.0
    fixed_samples: float = 0.0
    fixed_coverage: float = 0.0
    coverage: float = 0.0
    coverage_throughout: float = 0.0
    power: float = 0.0
    ever: float = 0.0
    fixed_power: float = 0.0


def covered(kind: Kind, runs: int, random: np.random.Generator) -> Covered:
    """Run it so many times, planned anew by other samples of before for each hundred."""
    found = Covered()
    for number in range(0, runs, _RUNS_OF_A_PLAN):
        needed = _planned(kind, random)
        experiment = planned(experiment_with(kind.metric), needed.always_valid)
        for _ in range(min(_RUNS_OF_A_PLAN, runs - number)):
            places = random.integers(0, 2, needed.always_valid)
            one, other = kind.control(random, len(places)), kind.variant(random, len(places))
            seen = Cumulated(experiment, places, np.where(places == 1, other, one))
            _count(found, seen, needed, kind.effect, 1 / runs)
    return found


def _planned(kind: Kind, random: np.random.Generator) -> Needed:
    is_rate = kind.metric in RATES
    before = estimate_of(sums_of_values("before", kind.metric, kind.control(random, _BEFORE)), is_rate=is_rate)
    assert before is not None
    known = Before(before.centre, before.variance * before.units)
    return needed_units(known, kind.effect, [0.5, 0.5], is_rate=is_rate)


def _count(found: Covered, seen: Cumulated, needed: Needed, effect: float, share: float) -> None:
    looks = [round(needed.always_valid * look / _LOOKS) for look in range(1, _LOOKS + 1)]
    compared = [seen.compared(look) for look in looks]
    last = compared[-1]
    fixed = seen.compared(needed.fixed_horizon)
    found.samples += share * needed.always_valid
    found.fixed_samples += share * needed.fixed_horizon
    found.fixed_coverage += share * _holds(fixed.difference, effect, is_fixed=True)
    found.coverage += share * _holds(last.difference, effect, is_fixed=False)
    found.coverage_throughout += share * all(_holds(one.difference, effect, is_fixed=False) for one in compared)
    found.power += share * (last.difference.low > 0)
    found.ever += share * any(one.difference.low > 0 for one in compared)
    found.fixed_power += share * (fixed.difference.fixed_low > 0)


def _holds(found: Range, truth: float, *, is_fixed: bool) -> bool:
    low, high = (found.fixed_low, found.fixed_high) if is_fixed else (found.low, found.high)
    return low <= truth <= high
