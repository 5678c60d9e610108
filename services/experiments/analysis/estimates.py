"""From the sums of a metric in a variant to its mean, and to how far off that may be.

A unit (a user, or a generation without one) has the sum m and the count d of its values. The mean is R =
sum(m)/sum(d), a ratio, and its variance follows from the residuals m - R d (delta method; Deng, Knoblich and Lu,
"Applying the delta method in metric analytics", KDD 2018, section 3). Where each unit has one value that is the
mean's usual variance.
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.database.records_experiments import SumsRecord

RATES = frozenset({"success_rate"})
"""Metrics that are shares: 0 to 1."""
_ROUNDING = 1e-7


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, in the metric's own unit.

    `variance` is that of the mean itself; `value` is what was measured, and `centre` what inference starts from, which
    for shares is drawn towards one half a little.
    """

    units: float
    samples: int
    value: float
    centre: float
    variance: float


def estimate_of(sums: SumsRecord, *, is_rate: bool) -> Estimate | None:
    """The mean with its variance; None where fewer than two units were measured.

    Shares get one success and one failure more (Agresti and Caffo, The American Statistician 54, 2000): without that, a
    variant that never failed would be without doubt.
    """
    if sums.units < 2 or sums.d <= 0:
        return None
    value = sums.m / sums.d
    seen = _with_one_of_each(sums) if is_rate else sums
    centre = seen.m / seen.d
    # Where all values are the same, what is left of the sums is the error of their rounding.
    variance = max(_residuals(seen, centre) / seen.d**2 * _unbiased(seen.units), (_ROUNDING * centre) ** 2)
    return Estimate(sums.units, sums.samples, value, centre, variance)


def _with_one_of_each(sums: SumsRecord) -> SumsRecord:
    weight = sums.d / sums.units
    return SumsRecord(
        sums.variant_id,
        sums.metric,
        units=sums.units + 2,
        m=sums.m + weight,
        d=sums.d + 2 * weight,
        mm=sums.mm + weight**2,
        dd=sums.dd + 2 * weight**2,
        md=sums.md + weight**2,
    )


def _residuals(sums: SumsRecord, ratio: float) -> float:
    """The sum of (m - R d)² over units."""
    return max(0.0, sums.mm - 2 * ratio * sums.md + ratio**2 * sums.dd)


def _unbiased(units: float) -> float:
    return units / (units - 1)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What users did before takes away from a difference: `shift`; and of its variance: `reduction`, 0 to 1."""

    shift: float = 0.0
    reduction: float = 0.0


# A slope from fewer would be chance.
_RETURNING_UNITS = 100


def adjustment_of(control: SumsRecord, variant: SumsRecord) -> Adjustment:
    """How the 28 days before adjust a difference (CUPED: Deng, Xu, Kohavi and Walker, WSDM 2013, for ratios)."""
    sides = [side for side in (_Before.of(sums) for sums in (variant, control)) if side is not None]
    if len(sides) < 2:
        return Adjustment()
    own = sum(side.own for side in sides)
    before, both = sum(side.before for side in sides), sum(side.both for side in sides)
    if own <= 0 or before <= 0:
        return Adjustment()
    slope = both / before
    reduction = min(0.999, both**2 / (before * own))
    return Adjustment(slope * (sides[0].mean - sides[1].mean), reduction)


@dataclass(frozen=True, slots=True)
class _Before:
    """A variant's mean before the experiment; variances of it and of the metric's, and their covariance."""

    mean: float
    before: float
    own: float
    both: float

    @classmethod
    def of(cls, sums: SumsRecord) -> _Before | None:
        if sums.b < _RETURNING_UNITS or sums.d <= 0 or sums.units < _RETURNING_UNITS:
            return None
        ratio, mean = sums.m / sums.d, sums.a / sums.b
        scale = _unbiased(sums.units)
        before = max(0.0, sums.aa - 2 * mean * sums.ab + mean**2 * sums.bb) / sums.b**2
        both = (sums.ma - mean * sums.mb - ratio * sums.da + ratio * mean * sums.db) / (sums.d * sums.b)
        return cls(mean, before * scale, _residuals(sums, ratio) / sums.d**2 * scale, both * scale)
