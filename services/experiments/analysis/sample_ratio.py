"""Whether the split is the planned one: if it is not, something is broken and no number can be trusted.

Fabijan and others, "Diagnosing sample ratio mismatch in online controlled experiments", KDD 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import chisquare

from libs.common.database.records_experiments import AllocationRecord, ArrivalsRecord

MISMATCH = 0.001
# Chi-square wants five in each cell.
_LEAST = 5.0


@dataclass(frozen=True, slots=True)
class Split:
    """Units that came to each variant, by position, as many as were to be expected, and how surprising that is."""

    units: list[int]
    expected: list[float]
    p_value: float

    @property
    def is_mismatch(self) -> bool:
        """Whether it cannot be chance."""
        return self.p_value < MISMATCH


def split_of(
    arrivals: Sequence[ArrivalsRecord], allocations: Sequence[AllocationRecord], positions: Mapping[str, int]
) -> Split:
    """The split, under whichever shares each unit came."""
    units = [0] * len(positions)
    came: dict[int, int] = {}
    for arrival in arrivals:
        units[positions[arrival.variant_id]] += arrival.units
        came[arrival.version] = came.get(arrival.version, 0) + arrival.units
    expected = [0.0] * len(positions)
    for allocation in allocations:
        for position, weight in enumerate(allocation.weights):
            expected[position] += came.get(allocation.version, 0) * weight / sum(allocation.weights)
    return Split(units, expected, _p_value(units, expected))


def _p_value(units: Sequence[int], expected: Sequence[float]) -> float:
    if any(number and not hoped for number, hoped in zip(units, expected, strict=True)):
        return 0.0
    kept = [(number, hoped) for number, hoped in zip(units, expected, strict=True) if hoped > 0]
    if len(kept) < 2 or min(hoped for _, hoped in kept) < _LEAST:
        return 1.0
    return float(chisquare([number for number, _ in kept], [hoped for _, hoped in kept]).pvalue)
