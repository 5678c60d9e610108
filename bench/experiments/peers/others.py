"""statsmodels' answers to the same questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW


def two_proportions(counts: tuple[int, int], sizes: tuple[int, int]) -> dict[str, float]:
    """The interval of a difference of two shares (Agresti and Caffo)."""
    low, high = confint_proportions_2indep(
        counts[1], sizes[1], counts[0], sizes[0], method="agresti-caffo", compare="diff", alpha=0.05
    )
    return {"low": float(low), "high": float(high)}


def welch(control: Sequence[float], variant: Sequence[float]) -> dict[str, float]:
    """Welch's test of two means."""
    compared = CompareMeans(DescrStatsW(np.asarray(variant)), DescrStatsW(np.asarray(control)))
    low, high = compared.tconfint_diff(usevar="unequal")
    _, p_value, _ = compared.ttest_ind(usevar="unequal")
    return {"low": float(low), "high": float(high), "p": float(p_value)}


def samples(effect: float, deviation: float, power: float, alpha: float) -> float:
    """Samples of both sides for a two-sided test of two equal sides."""
    one = NormalIndPower().solve_power(effect_size=effect / deviation, alpha=alpha, power=power, ratio=1.0)
    return 2 * float(one)


def corrected(p_values: Sequence[float], method: str) -> list[float]:
    """p-values corrected: `holm` or `fdr_bh`."""
    return [float(value) for value in multipletests(p_values, method=method)[1]]


def coefficients(columns: Sequence[Sequence[float]], values: Sequence[float]) -> list[tuple[float, float]]:
    """Least-squares coefficients with their standard errors (HC3), without the constant's."""
    design = np.column_stack([np.ones(len(values)), *map(np.asarray, columns)])
    fitted = OLS(np.asarray(values), design).fit(cov_type="HC2")
    return list(zip(map(float, fitted.params[1:]), map(float, fitted.bse[1:]), strict=True))
