"""The 95th percentile of durations, from counts in buckets, and how far off it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence

from libs.common.database.records_experiments import DURATION_GROWTH, DurationRecord
from services.experiments.analysis.estimates import Estimate

P95 = "p95_duration"
_SHARE = 0.95
# Two standard errors to each side, which is where the order statistics are looked up.
_REACH = 1.96


def p95_of(durations: Sequence[DurationRecord]) -> Estimate | None:
    """The percentile in seconds, right within 1 %; None where there are too few to tell.

    Its interval is between the order statistics that a binomial puts there (Conover, Practical Nonparametric
    Statistics, section 3.2), with weights' effective number (Kish). Each success counts by itself, whoever asked for
    it.
    """
    weight = sum(found.weight for found in durations)
    squares = sum(found.weight_squared for found in durations)
    if not weight:
        return None
    effective = weight**2 / squares
    reach = _REACH * math.sqrt(_SHARE * (1 - _SHARE) / effective)
    if _SHARE + reach >= 1:
        return None
    value, low, high = (_quantile(durations, weight, share) for share in (_SHARE, _SHARE - reach, _SHARE + reach))
    # A bucket is as wide as it is, however many are in it.
    deviation = max((high - low) / (2 * _REACH), value * (DURATION_GROWTH - 1) / math.sqrt(12))
    samples = sum(found.samples for found in durations)
    return Estimate(effective, samples, value, value, deviation**2)


def _quantile(durations: Sequence[DurationRecord], weight: float, share: float) -> float:
    """Where the share lies, in seconds; within a bucket as if it were evenly filled."""
    seen = 0.0
    for found in durations:
        if seen + found.weight >= share * weight:
            within = (share * weight - seen) / found.weight
            return float(DURATION_GROWTH ** (found.bucket - 1 + within)) / 1_000
        seen += found.weight
    return float(DURATION_GROWTH ** durations[-1].bucket) / 1_000
