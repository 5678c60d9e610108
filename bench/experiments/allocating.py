"""A million users in twenty experiments: whether buckets are uniform and independent, and how many move."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare, kstest

from libs.common.experiments.allocation import BUCKETS, bucket_of, unit_of
from services.experiments import buckets

_CELLS = 10


@dataclass(frozen=True, slots=True)
class Allocated:
    """p-values of chi-square tests, and what a change of shares moved."""

    seconds_each: float
    uniform: list[float]
    independent: list[float]
    together: float
    """Of all of them: whether they are as p-values ought to be, spread evenly (Kolmogorov and Smirnov)."""


def allocated(users: int, experiments: int) -> Allocated:
    """Hash so many users for so many experiments."""
    began = perf_counter()
    places = np.empty((experiments, users), dtype=np.int16)
    for number in range(experiments):
        salt, name = f"salt{number:012}", f"exp_{number:026}"
        places[number] = [bucket_of(name, salt, unit_of("shop", f"user-{user}")) for user in range(users)]
    seconds = (perf_counter() - began) / users / experiments
    uniform = [float(chisquare(np.bincount(row, minlength=BUCKETS)).pvalue) for row in places]
    cells = places // (BUCKETS // _CELLS)
    independent = [_independence(cells[one], cells[other]) for one, other in combinations(range(experiments), 2)]
    together = float(kstest(uniform + independent, "uniform").pvalue)
    return Allocated(seconds, uniform, independent, together)


def _independence(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    table = np.bincount(one.astype(np.int64) * _CELLS + other, minlength=_CELLS**2).reshape(_CELLS, _CELLS)
    return float(chi2_contingency(table).pvalue)


def moved_share(before: list[int], after: list[int], users: int) -> tuple[float, float]:
    """The share of users that change their variant when the shares do, and the least that could."""
    old, new = buckets.spread(before), b""
    new = buckets.moved(old, after)
    places = [bucket_of("exp", "salt", unit_of("shop", f"user-{user}")) for user in range(users)]
    changed = sum(old[place] != new[place] for place in places) / users
    least = sum(max(0, was - will) for was, will in zip(before, after, strict=True)) / BUCKETS
    return changed, least
