"""Shares that follow what was measured: Thompson sampling and its top-two variant, with a floor for each variant.

Thompson, Biometrika 25 (1933); Russo, "Simple Bayesian algorithms for best arm identification", COLT 2016. Means are
normal around what was measured, from a flat prior: with fifty samples of each the prior has nothing to say.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from libs.common.database.states import AllocationMode
from services.experiments.analysis.estimates import Estimate
from services.experiments.buckets import rounded

_DRAWS = 20_000
# Half to the best, as Russo proposes where nothing else is known.
_BEST_SHARE = 0.5


def chances_to_be_best(estimates: Sequence[Estimate], sign: int, random: np.random.Generator) -> NDArray[np.float64]:
    """For each variant the chance that its mean is the best, 0 to 1; `sign` 1 where more is better, else -1."""
    means = np.array([estimate.centre for estimate in estimates])
    deviations = np.sqrt([estimate.variance for estimate in estimates])
    draws = sign * (means + deviations * random.standard_normal((_DRAWS, len(estimates))))
    return np.bincount(draws.argmax(axis=1), minlength=len(estimates)) / _DRAWS


def top_two(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares of top-two Thompson sampling: a draw's best, or with one half the best of a draw that differs."""
    # A challenger drawn from those that are never best: nobody is known, so all of them are.
    safe = (chances + 1e-6) / (chances + 1e-6).sum()
    odds = safe / (1 - safe)
    return np.asarray(safe * (_BEST_SHARE + (1 - _BEST_SHARE) * (odds.sum() - odds)))


def adapted(
    mode: AllocationMode,
    estimates: Sequence[Estimate | None],
    sign: int,
    *,
    floor_buckets: int,
    random: np.random.Generator,
) -> list[int]:
    """The buckets of each variant; None for one that is taken out, which gets none."""
    kept = [estimate for estimate in estimates if estimate is not None]
    chances = chances_to_be_best(kept, sign, random)
    shares = iter(top_two(chances) if mode is AllocationMode.TOP_TWO else chances)
    # Above the floor, which is added: whoever takes part has some share.
    whole = [0.0 if estimate is None else max(1e-9, float(next(shares))) for estimate in estimates]
    return rounded(whole, floor=floor_buckets)
