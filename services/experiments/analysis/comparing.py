"""A variant beside another in one metric: difference and ratio, with intervals for any number of looks and for one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtr, stdtr, stdtrit

from services.experiments.analysis.estimates import Adjustment, Estimate
from services.experiments.analysis.sequential import (
    ALPHA,
    MINIMUM_UNITS,
    always_valid_p,
    boundary,
    normal_score,
    student_score,
)


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate with its intervals: for any number of looks, and for a single one."""

    value: float
    low: float
    high: float
    fixed_low: float
    fixed_high: float


@dataclass(frozen=True, slots=True)
class Compared:
    """What a variant does beside another.

    `deviation` is the standard error of the difference, `score` how many of them it is away from none, made normal.
    `ratio` is None where the other's mean may be 0. Chances are from a flat prior, and for more being better.
    """

    units: float
    difference: Range
    ratio: Range | None
    deviation: float
    degrees: float
    score: float
    p_value: float
    fixed_p_value: float
    variance_reduction: float

    def chance_above(self, threshold: float = 0.0) -> float:
        """The chance, 0 to 1, that the true difference is above `threshold`."""
        return float(ndtr((self.difference.value - threshold) / self.deviation))

    def expected_loss(self, sign: int) -> float:
        """What is lost on average if the variant is taken and is not better; `sign` 1 where more is better, else -1."""
        score = sign * self.difference.value / self.deviation
        density = math.exp(-(score**2) / 2) / math.sqrt(2 * math.pi)
        return float(self.deviation * (density - score * ndtr(-score)))

    def p_value_beside(self, threshold: float, planned_units: float) -> tuple[float, float]:
        """The score of the difference beside `threshold` instead of none, and its always-valid p-value."""
        score = normal_score((self.difference.value - threshold) / self.deviation, self.degrees)
        return score, always_valid_p(score, self.units, planned_units)


def compare(
    control: Estimate,
    variant: Estimate,
    *,
    planned_units: float,
    alpha: float = ALPHA,
    adjustment: Adjustment | None = None,
) -> Compared | None:
    """The variant beside the control; None while either has too few units, or nothing varies.

    Args:
        control: what is compared with.
        variant: what is compared.
        planned_units: with how many units in the two of them the intervals are to be tightest.
        alpha: one less the intervals' coverage.
        adjustment: what users did before.
    """
    if min(control.units, variant.units) < MINIMUM_UNITS:
        return None
    adjusted = adjustment or Adjustment()
    parts = [side.variance * (1 - adjusted.reduction) for side in (variant, control)]
    variance = sum(parts)
    if variance <= 0:
        return None
    degrees = _welch(parts, (variant.units, control.units))
    units = control.units + variant.units
    widths = Widths.of(units, planned_units, alpha, degrees)
    difference = variant.centre - control.centre - adjusted.shift
    deviation = math.sqrt(variance)
    t = difference / deviation
    score = normal_score(t, degrees)
    return Compared(
        units=units,
        difference=widths.around(difference, deviation),
        ratio=_ratio(control, variant, difference, parts, widths),
        deviation=deviation,
        degrees=degrees,
        score=score,
        p_value=always_valid_p(score, units, planned_units),
        fixed_p_value=min(1.0, 2 * float(stdtr(degrees, -abs(t)))),
        variance_reduction=adjusted.reduction,
    )


def interval(estimate: Estimate, *, is_rate: bool, alpha: float = ALPHA) -> tuple[float, float]:
    """The interval of one mean, for a single look."""
    width = -float(stdtrit(max(1.0, estimate.units - 1), alpha / 2)) * math.sqrt(estimate.variance)
    low, high = estimate.centre - width, estimate.centre + width
    return (max(0.0, low), min(1.0, high)) if is_rate else (low, high)


@dataclass(frozen=True, slots=True)
class Widths:
    """How many standard errors an interval reaches to each side: for any number of looks, and for one."""

    always: float
    fixed: float

    @classmethod
    def of(cls, units: float, planned_units: float, alpha: float, degrees: float) -> Widths:
        """With so many units, where so many are planned, and so many degrees of freedom."""
        always = student_score(boundary(units, planned_units, alpha), degrees)
        return cls(always, -float(stdtrit(degrees, alpha / 2)))

    def around(self, value: float, deviation: float) -> Range:
        """The intervals around a value with that standard error."""
        always, fixed = self.always * deviation, self.fixed * deviation
        return Range(value, value - always, value + always, value - fixed, value + fixed)


def _ratio(control: Estimate, variant: Estimate, difference: float, parts: list[float], widths: Widths) -> Range | None:
    """The difference over the control's mean (delta method), where that is surely not 0."""
    base = control.centre
    if base == 0 or control.variance > (base / widths.always) ** 2:
        return None
    variance = parts[0] / base**2 + parts[1] * variant.centre**2 / base**4
    return widths.around(difference / base, math.sqrt(variance))


def _welch(parts: list[float], units: tuple[float, float]) -> float:
    """Degrees of freedom after Welch (1947) and Satterthwaite (1946)."""
    shares = sum(part**2 / (number - 1) for part, number in zip(parts, units, strict=True))
    return float(sum(parts) ** 2 / shares)
