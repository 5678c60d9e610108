"""Bandits beside a fixed split: what they lose on the way, and whether their adjusted intervals hold the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.experiments.simulated import NOW, experiment_with
from libs.common.database.records_experiments import AllocationRecord, ArrivalsRecord, Measured, SumsRecord
from libs.common.database.states import AllocationMode
from services.experiments import bandits
from services.experiments.analysis.comparing import interval
from services.experiments.analysis.judging import Evidence
from services.experiments.analysis.sequential import MINIMUM_UNITS

RATES = (0.85, 0.90, 0.93)
_SAMPLES, _TURN = 6_000, 200
_FLOOR = 500


@dataclass(slots=True)
class Adapted:
    """Means over runs. Regret: successes that were missed by not giving everything to the best; shares 0 to 1."""

    regret: float = 0.0
    best_share: float = 0.0
    found_best: float = 0.0
    coverage: list[float] = field(default_factory=lambda: [0.0] * len(RATES))
    plain_coverage: list[float] = field(default_factory=lambda: [0.0] * len(RATES))
    difference_coverage: float = 0.0
    always_coverage: float = 0.0


def adapted(mode: AllocationMode, runs: int, random: np.random.Generator) -> Adapted:
    """Run it so many times."""
    found = Adapted()
    for _ in range(runs):
        _count(found, _Run(mode, random), 1 / runs)
    return found


class _Run:
    """One experiment: samples come in turns, and shares follow."""

    def __init__(self, mode: AllocationMode, random: np.random.Generator) -> None:
        self.experiment = experiment_with("success_rate", len(RATES))
        self.units = np.zeros(len(RATES))
        self.successes = np.zeros(len(RATES))
        self._sums = np.zeros((len(RATES), 5))
        self._allocations: list[AllocationRecord] = []
        weights = self.experiment.weights
        for version in range(1, _SAMPLES // _TURN + 1):
            self._turn(version, weights, random)
            if mode is not AllocationMode.FIXED and self.units.min() >= MINIMUM_UNITS:
                evidence = self.evidence()
                estimates = [evidence.estimate(variant, "success_rate") for variant in self.experiment.variants]
                weights = bandits.adapted(mode, estimates, 1, floor_buckets=_FLOOR, random=random)

    def _turn(self, version: int, weights: list[int], random: np.random.Generator) -> None:
        shares = np.array(weights) / sum(weights)
        self._allocations.append(AllocationRecord(version, weights, "bandit", NOW))
        came = random.multinomial(_TURN, shares)
        won = random.binomial(came, RATES)
        weight = 1 / shares
        self.units += came
        self.successes += won
        self._sums += np.column_stack([won * weight, came * weight, won * weight**2, came * weight**2, won * weight**2])

    def evidence(self) -> Evidence:
        """What the service would reckon with."""
        sums = [
            SumsRecord(variant.id, "success_rate", int(units), float(won), int(units), *map(float, row))
            for variant, units, won, row in zip(
                self.experiment.variants, self.units, self.successes, self._sums, strict=True
            )
        ]
        arrivals = [
            ArrivalsRecord(version, variant.id, 1, 1, 1, 0)
            for version in (1, 2)
            for variant in self.experiment.variants
        ]
        return Evidence(self.experiment, Measured(sums, arrivals, [], self._allocations))


def _count(found: Adapted, run: _Run, share: float) -> None:
    best = int(np.argmax(RATES))
    found.regret += share * float(run.units @ (RATES[best] - np.array(RATES)))
    found.best_share += share * float(run.units[best] / run.units.sum())
    found.found_best += share * (int(np.argmax(run.successes / run.units)) == best)
    evidence = run.evidence()
    variants = run.experiment.variants
    for place, (variant, rate) in enumerate(zip(variants, RATES, strict=True)):
        estimate = evidence.estimate(variant, "success_rate")
        assert estimate is not None
        low, high = interval(estimate, is_rate=True)
        found.coverage[place] += share * (low <= rate <= high)
        plain = run.successes[place] / run.units[place]
        width = 1.96 * np.sqrt(plain * (1 - plain) / run.units[place])
        found.plain_coverage[place] += share * bool(abs(plain - rate) <= width)
    compared = evidence.compare(variants[0], variants[best], "success_rate")
    assert compared is not None
    difference, truth = compared.difference, RATES[best] - RATES[0]
    found.difference_coverage += share * (difference.fixed_low <= truth <= difference.fixed_high)
    found.always_coverage += share * (difference.low <= truth <= difference.high)
