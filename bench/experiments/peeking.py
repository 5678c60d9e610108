"""A/A experiments with a look after each hundred samples: how often a winner is declared where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.experiments.simulated import Cumulated, Values, experiment_with
from libs.common.database.records_experiments import ExperimentRecord

SAMPLES, LOOK = 5_000, 100
Draw = Callable[[np.random.Generator, int], Values]


@dataclass(frozen=True, slots=True)
class Kind:
    """What is measured, in how many variants."""

    name: str
    metric: str
    variants: int
    draw: Draw


KINDS = (
    Kind("success rate of 95 %", "success_rate", 2, lambda random, size: (random.random(size) < 0.95).astype(float)),
    Kind("success rate of 99.5 %", "success_rate", 2, lambda random, size: (random.random(size) < 0.995).astype(float)),
    Kind("skewed durations", "avg_duration", 2, lambda random, size: random.lognormal(2.0, 1.0, size)),
    Kind("ratings, four variants", "user_rating", 4, lambda random, size: random.integers(1, 6, size).astype(float)),
)


def false_winners(kind: Kind, runs: int, random: np.random.Generator) -> tuple[float, float, float]:
    """Shares of A/A experiments with a winner at any look; by a fixed-horizon test at any look; by one at the last."""
    experiment = experiment_with(kind.metric, kind.variants, planned=SAMPLES)
    counts = np.zeros(3)
    for _ in range(runs):
        counts += _named(experiment, _samples(experiment, kind, random))
    always, fixed, last = (float(share) for share in counts / runs)
    return always, fixed, last


def _samples(experiment: ExperimentRecord, kind: Kind, random: np.random.Generator) -> Cumulated:
    places = random.integers(0, kind.variants, SAMPLES)
    return Cumulated(experiment, places, kind.draw(random, SAMPLES))


def _named(experiment: ExperimentRecord, seen: Cumulated) -> tuple[bool, bool, bool]:
    always = fixed = is_last = False
    for samples in range(LOOK, SAMPLES + 1, LOOK):
        results = seen.results(samples)
        always = always or results.winner is not None
        # The textbook: each variant beside the control, at 5 % in all (Bonferroni).
        is_last = any(
            found.compared.fixed_p_value * (len(experiment.variants) - 1) < 0.05 for found in results.comparisons
        )
        fixed = fixed or is_last
    return always, fixed, is_last
