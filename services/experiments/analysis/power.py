"""How many samples it takes, and what those so far can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from services.experiments.analysis.comparing import Compared
from services.experiments.analysis.sequential import ALPHA, boundary

POWER = 0.8
# What nobody will ever have, and what a square becomes that is too small for a float.
_MOST, _LEAST = 1e15, 1e-300


@dataclass(frozen=True, slots=True)
class Needed:
    """Units that are needed in all: where one may look at any time, and for a single look at the end."""

    always_valid: int
    fixed_horizon: int


@dataclass(frozen=True, slots=True)
class Before:
    """What one unit's value was before: its mean, and its variance."""

    mean: float
    variance: float

    def after(self, effect: float, *, is_rate: bool) -> float:
        """The variance once the mean is higher by `effect`: a share's own, or a deviation in proportion to it."""
        mean = self.mean + effect
        if is_rate:
            own = max(1e-9, self.mean * (1 - self.mean))
            return self.variance * max(0.0, mean * (1 - mean)) / own
        return self.variance * (mean / self.mean) ** 2 if self.mean > 0 else self.variance


def needed_units(before: Before, effect: float, shares: list[float], *, is_rate: bool) -> Needed:
    """Units for a power of 80 % at a level of 5 %, corrected for the number of variants.

    Args:
        before: what the control's values were.
        effect: by how much the mean is to be higher (below 0: lower), in the metric's own unit.
        shares: of the variants, 0 to 1 each, the control's first.
        is_rate: whether the metric is a share.
    """
    alpha = ALPHA / (len(shares) - 1)
    smallest = min(shares[1:])
    scale = (before.variance / shares[0] + before.after(effect, is_rate=is_rate) / smallest) / max(effect**2, _LEAST)
    # Of all that come, this part comes to the two variants that are compared.
    always, fixed = boundary(1.0, 1.0, alpha), -float(ndtri(alpha / 2))
    return Needed(*(math.ceil(min(_MOST, scale * (score + float(ndtri(POWER))) ** 2)) for score in (always, fixed)))


def power_of(compared: Compared, effect: float, planned_units: float, alpha: float) -> float:
    """The chance, 0 to 1, that what is there by now shows an effect of that size."""
    return float(ndtr(abs(effect) / compared.deviation - boundary(compared.units, planned_units, alpha)))


def detectable_effect(compared: Compared, planned_units: float, alpha: float) -> float:
    """The smallest effect that what is there by now shows with a power of 80 %, in the metric's own unit."""
    score = boundary(compared.units, planned_units, alpha) + float(ndtri(POWER))
    return float(score * compared.deviation)
