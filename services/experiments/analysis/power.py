"""How many samples it takes, and what those so far can show."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr, ndtri

from services.experiments.analysis.comparing import Compared
from services.experiments.analysis.sequential import ALPHA, boundary

POWER = 0.8


@dataclass(frozen=True, slots=True)
class Needed:
    """Units that are needed in all: where one may look at any time, and for a single look at the end."""

    always_valid: int
    fixed_horizon: int


def needed_units(unit_variance: float, effect: float, shares: list[float]) -> Needed:
    """Units for a power of 80 % at a level of 5 %, corrected for the number of variants.

    Args:
        unit_variance: of one unit's value.
        effect: the difference to be found, in the metric's own unit.
        shares: of the variants, 0 to 1 each, the control's first.
    """
    alpha = ALPHA / (len(shares) - 1)
    smallest = min(shares[1:])
    scale = unit_variance * (1 / shares[0] + 1 / smallest) / effect**2
    # Of all that come, this part comes to the two variants that are compared.
    always, fixed = boundary(1.0, 1.0, alpha), -float(ndtri(alpha / 2))
    return Needed(*(math.ceil(scale * (score + float(ndtri(POWER))) ** 2) for score in (always, fixed)))


def power_of(compared: Compared, effect: float, planned_units: float, alpha: float) -> float:
    """The chance, 0 to 1, that what is there by now shows an effect of that size."""
    return float(ndtr(abs(effect) / compared.deviation - boundary(compared.units, planned_units, alpha)))


def detectable_effect(compared: Compared, planned_units: float, alpha: float) -> float:
    """The smallest effect that what is there by now shows with a power of 80 %, in the metric's own unit."""
    score = boundary(compared.units, planned_units, alpha) + float(ndtri(POWER))
    return float(score * compared.deviation)
