"""Tests and intervals that stay right however often one looks (always-valid).

The normal mixture of Robbins (1970) as an asymptotic confidence sequence: Waudby-Smith, Arbour, Sinha, Kennedy and
Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 2024 (arXiv
2103.06476), equations 9 and 161. It is tightest at one sample size, which is taken from the plan.
"""

from __future__ import annotations

import math

from scipy.special import ndtr, ndtri, stdtr, stdtrit

ALPHA = 0.05
DEFAULT_PLANNED_UNITS = 5_000
MINIMUM_UNITS = 50
"""Of each variant; the theory wants the central limit theorem to hold at the first look."""
_LEAST = 1e-300


def mixing(planned_units: float) -> float:
    """rho², the variance of the mixture that is tightest when `planned_units` have come to the two variants."""
    log = -2 * math.log(ALPHA)
    return (log + math.log(log + 1)) / max(1.0, planned_units)


def boundary(units: float, planned_units: float, alpha: float) -> float:
    """How many standard errors a difference must be away from none, with `units` in the two variants so far."""
    ratio = units * mixing(planned_units)
    return math.sqrt((1 + ratio) / ratio * (math.log1p(ratio) - 2 * math.log(alpha)))


def always_valid_p(score: float, units: float, planned_units: float) -> float:
    """The p-value of a difference that is `score` standard errors away from none, 0 to 1."""
    ratio = units * mixing(planned_units)
    evidence = score**2 / 2 * ratio / (1 + ratio) - math.log1p(ratio) / 2
    return min(1.0, math.exp(-min(evidence, -math.log(_LEAST))))


def normal_score(t: float, degrees: float) -> float:
    """The score of a normal that is as surprising as `t` of a Student's t with so many degrees of freedom."""
    tail = float(stdtr(degrees, -abs(t)))
    return math.copysign(abs(t) if tail < _LEAST else -float(ndtri(tail)), t)


def student_score(score: float, degrees: float) -> float:
    """The other way round, for a `score` above 0."""
    tail = float(ndtr(-score))
    return score if tail < _LEAST else -float(stdtrit(degrees, tail))
