"""Several questions at once: p-values corrected so that the answers keep their promise together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control


def holm(p_values: Sequence[float]) -> list[float]:
    """For whoever must not be wrong in any: the family-wise error stays below alpha (Holm 1979).

    Also for always-valid p-values, at any time at which one stops.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return [float(value) for value in corrected]


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """For whoever looks for what is worth a further look: of what is found, a share of alpha is wrong on average."""
    return [float(value) for value in false_discovery_control(p_values)] if len(p_values) else []
