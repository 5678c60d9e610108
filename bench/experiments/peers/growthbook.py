"""GrowthBook's engine (gbstats), in its own environment: asked and answering with a line of JSON.

Run by itself: it may import nothing of ours.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from gbstats.bayesian.tests import EffectBayesianABTest, EffectBayesianConfig
from gbstats.frequentist.tests import FrequentistConfig, SequentialConfig, SequentialTwoSidedTTest, TwoSidedTTest
from gbstats.models.statistics import (
    QuantileStatistic,
    RatioStatistic,
    RegressionAdjustedStatistic,
    SampleMeanStatistic,
)
from gbstats.utils import check_srm


def statistic(side: dict[str, Any]) -> Any:
    """A side of a comparison as the library's own."""
    if "quantile" in side:
        return QuantileStatistic(**side["quantile"])
    values = SampleMeanStatistic(n=side["n"], sum=side["m"], sum_squares=side["mm"])
    if "dd" in side:
        counts = SampleMeanStatistic(n=side["n"], sum=side["d"], sum_squares=side["dd"])
        return RatioStatistic(n=side["n"], m_statistic=values, d_statistic=counts, m_d_sum_of_products=side["md"])
    if "aa" in side:
        before = SampleMeanStatistic(n=side["n"], sum=side["a"], sum_squares=side["aa"])
        return RegressionAdjustedStatistic(
            n=side["n"],
            post_statistic=values,
            pre_statistic=before,
            post_pre_sum_of_products=side["ma"],
            theta=0,
        )
    return values


def answer(question: dict[str, Any]) -> dict[str, float]:
    """What the library says."""
    if "users" in question:
        return {"p": float(check_srm(question["users"], question["weights"]))}
    kind = question["kind"]
    sides = [statistic(question[name]) for name in ("control", "variant")]
    if kind == "bayesian":
        found = EffectBayesianABTest(*sides, EffectBayesianConfig(difference_type="absolute")).compute_result()
        return {"chance": float(found.chance_to_win), "loss": float(found.risk[1])}
    if kind == "sequential":
        config = SequentialConfig(difference_type="absolute", sequential_tuning_parameter=question["planned"])
        result = SequentialTwoSidedTTest(*sides, config).compute_result()
    else:
        result = TwoSidedTTest(*sides, FrequentistConfig(difference_type=kind)).compute_result()
    return {"value": float(result.expected), "low": result.ci[0], "high": result.ci[1], "p": float(result.p_value)}


if __name__ == "__main__":
    print(json.dumps({name: answer(question) for name, question in json.load(sys.stdin).items()}))
