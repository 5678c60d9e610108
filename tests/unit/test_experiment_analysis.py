"""Figures beside raw samples, published examples, and other ways to come to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.experiments import adaptive, coverage, peeking
from bench.experiments.simulated import NOW, sums_of, sums_of_values
from libs.common.database.records_experiments import (
    DURATION_GROWTH,
    AllocationRecord,
    ArrivalsRecord,
    DurationRecord,
    SumsRecord,
)
from libs.common.database.states import AllocationMode
from services.experiments import bandits
from services.experiments.analysis import sequential
from services.experiments.analysis.comparing import Compared, compare, interval
from services.experiments.analysis.corrections import benjamini_hochberg, holm
from services.experiments.analysis.effects import effects_of
from services.experiments.analysis.estimates import Estimate, adjustment_of, estimate_of
from services.experiments.analysis.percentiles import p95_of
from services.experiments.analysis.power import Before, detectable_effect, needed_units, power_of
from services.experiments.analysis.sample_ratio import split_of

PLANNED = 5_000


def compared(control: SumsRecord, variant: SumsRecord, *, is_rate: bool = False) -> Compared:
    """Two sides that have enough."""
    base, other = estimate_of(control, is_rate=is_rate), estimate_of(variant, is_rate=is_rate)
    assert base is not None
    assert other is not None
    found = compare(base, other, planned_units=PLANNED, adjustment=adjustment_of(control, variant))
    assert found is not None
    return found


def test_one_look_is_welchs_test() -> None:
    random = np.random.default_rng(1)
    control, variant = random.lognormal(2, 1, 300), random.lognormal(2.2, 1.3, 200)
    found = compared(sums_of_values("a", "x", control), sums_of_values("b", "x", variant))
    theirs = stats.ttest_ind(variant, control, equal_var=False)
    bounds = theirs.confidence_interval()
    assert found.fixed_p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.difference.fixed_low, found.difference.fixed_high) == pytest.approx((bounds.low, bounds.high))
    assert found.degrees == pytest.approx(theirs.df)


def test_a_published_example() -> None:
    """GrowthBook's: means of 0.41 and 0.70 with deviations of 3.9 and 6.2."""
    found = compared(sums_of("a", "x", 3_407, 1_396.87, 52_377.9767), sums_of("b", "x", 3_461, 2_422.7, 134_698.29))
    difference = found.difference
    told = (difference.value, difference.fixed_low, difference.fixed_high, found.fixed_p_value)
    assert told == pytest.approx((0.29, 0.04538, 0.53462, 0.02016), abs=5e-6)


def test_two_shares_are_agresti_and_caffos() -> None:
    """Newcombe's example, 56 of 70 and 48 of 80, whose interval by Agresti and Caffo is 0.0525 to 0.3358."""
    found = compared(sums_of("a", "success_rate", 80, 48, 48), sums_of("b", "success_rate", 70, 56, 56), is_rate=True)
    assert found.difference.fixed_low == pytest.approx(0.0525, abs=0.003)
    assert found.difference.fixed_high == pytest.approx(0.3358, abs=0.003)


def test_a_variant_that_never_failed_is_not_without_doubt() -> None:
    sums = sums_of("a", "success_rate", 100, 100, 100)
    estimate = estimate_of(sums, is_rate=True)
    assert estimate is not None
    assert estimate.value == 1.0
    low, high = interval(estimate, is_rate=True)
    assert 0.94 < low < 0.98
    assert high == 1.0


def test_users_with_several_generations_are_one_unit_each() -> None:
    """The variance of a ratio, beside that of the same experiment run two thousand times."""
    random = np.random.default_rng(2)
    means, variances = [], []
    for _ in range(2_000):
        counts = random.poisson(2, 200) + 1.0
        levels = random.normal(10, 3, 200)
        values = counts * levels
        sums = SumsRecord(
            "a", "x", 0, 0.0, 200, float(values.sum()), float(counts.sum()), float((values**2).sum()),
            float((counts**2).sum()), float((values * counts).sum()),
        )  # fmt: skip
        estimate = estimate_of(sums, is_rate=False)
        assert estimate is not None
        means.append(estimate.value)
        variances.append(estimate.variance)
    assert np.mean(variances) == pytest.approx(np.var(means), rel=0.1)


def test_what_was_before_takes_variance_away_and_leaves_the_truth() -> None:
    random = np.random.default_rng(3)
    found, plain = [], []
    for _ in range(300):
        sides = []
        for mean in (2.0, 2.5):
            before = random.normal(10, 3, 400)
            values = 0.8 * before + random.normal(mean, 1, 400)
            sides.append(_with_before(values, before))
        result = compared(sides[0], sides[1])
        found.append(result.difference.value)
        plain.append(sides[1].m / 400 - sides[0].m / 400)
        assert result.variance_reduction == pytest.approx(0.85, abs=0.06)
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)
    assert np.var(found) < 0.25 * np.var(plain)


def _with_before(values: np.ndarray, before: np.ndarray) -> SumsRecord:
    size = float(len(values))
    return SumsRecord(
        "a", "x", len(values), float(values.sum()), len(values), float(values.sum()), size, float((values**2).sum()),
        size, float(values.sum()), float(before.sum()), size, float((before**2).sum()), size, float(before.sum()),
        float((values * before).sum()), float(values.sum()), float(before.sum()), size,
    )  # fmt: skip


def test_users_that_are_new_have_nothing_before() -> None:
    sums = sums_of_values("a", "x", np.random.default_rng(4).normal(1, 1, 500))
    assert adjustment_of(sums, sums).reduction == 0


@pytest.mark.parametrize("units", [100, 1_000, 5_000, 50_000])
def test_the_p_value_and_the_interval_agree(units: int) -> None:
    edge = sequential.boundary(units, PLANNED, 0.05)
    assert sequential.always_valid_p(edge, units, PLANNED) == pytest.approx(0.05)
    assert edge > 1.96


def test_the_boundary_is_lowest_near_the_plan() -> None:
    edges = {units: sequential.boundary(units, PLANNED, 0.05) for units in (100, 1_000, 5_000, 25_000, 500_000)}
    assert min(edges, key=lambda units: edges[units]) in {5_000, 25_000}


@given(st.floats(-30, 30), st.floats(5, 1e6))
def test_scores_of_students_t_lead_there_and_back(score: float, degrees: float) -> None:
    if abs(score) < 1e-6:
        return
    there = sequential.normal_score(score, degrees)
    assert math.copysign(1, there) == math.copysign(1, score)
    assert abs(there) <= abs(score) + 1e-6
    assert sequential.student_score(abs(there), degrees) == pytest.approx(abs(score), rel=1e-4)


@pytest.mark.parametrize("times", [15, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", peeking.KINDS, ids=lambda kind: kind.name)
def test_peeking_names_no_winner_where_there_is_none(kind: peeking.Kind, times: int) -> None:
    always, fixed, _ = peeking.false_winners(kind, times, np.random.default_rng(5))
    # 5 % and what chance may add to it in so many.
    assert always <= 0.05 + 1.96 * math.sqrt(0.05 * 0.95 / times)
    assert fixed > always


@pytest.mark.parametrize(("times", "slack"), [(40, 0.1), pytest.param(300, 0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", coverage.KINDS, ids=lambda kind: kind.name)
def test_intervals_hold_the_truth_and_the_plan_finds_it(kind: coverage.Kind, times: int, slack: float) -> None:
    # `slack`: what chance adds in few.
    found = coverage.covered(kind, times, np.random.default_rng(6))
    assert found.fixed_coverage > 0.92 - slack
    assert found.coverage_throughout > 0.95 - slack
    assert 0.72 - slack < found.power < 0.9 + slack
    assert 0.72 - slack < found.fixed_power < 0.9 + slack
    assert found.samples > found.fixed_samples


@pytest.mark.parametrize("times", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_bandits_lose_less_than_a_fixed_split_and_their_intervals_hold(times: int) -> None:
    random = np.random.default_rng(7)
    fixed, thompson = (
        adaptive.adapted(mode, times, random) for mode in (AllocationMode.FIXED, AllocationMode.THOMPSON)
    )
    assert thompson.regret < 0.5 * fixed.regret
    assert min(*thompson.coverage, thompson.difference_coverage) > 0.85
    assert thompson.found_best == pytest.approx(1.0, abs=0.05)


def test_constant_values_that_differ_surely_do_and_equal_ones_do_not() -> None:
    dear, cheap = sums_of_values("a", "avg_cost", [0.04] * 60), sums_of_values("b", "avg_cost", [0.025] * 70)
    assert compared(dear, cheap).p_value < 1e-9
    assert compared(dear, sums_of_values("b", "avg_cost", [0.04] * 70)).p_value == 1.0


def test_too_few_say_nothing() -> None:
    few, many = (estimate_of(sums_of_values("a", "x", np.arange(float(size))), is_rate=False) for size in (49, 500))
    assert few is not None
    assert many is not None
    assert compare(many, few, planned_units=PLANNED) is None
    assert estimate_of(sums_of("a", "x", 1, 1.0, 1.0), is_rate=False) is None


def test_chance_and_loss_are_those_of_a_normal() -> None:
    found = compared(sums_of_values("a", "x", np.arange(100.0)), sums_of_values("b", "x", np.arange(100.0) + 5))
    draws = np.random.default_rng(8).normal(found.difference.value, found.deviation, 200_000)
    assert found.chance_above() == pytest.approx((draws > 0).mean(), abs=0.005)
    assert found.expected_loss(1) == pytest.approx(np.maximum(-draws, 0).mean(), rel=0.02)
    assert found.expected_loss(-1) == pytest.approx(np.maximum(draws, 0).mean(), rel=0.02)


def test_the_95th_percentile_is_within_a_bucket_and_its_error_is_that_of_samples() -> None:
    random = np.random.default_rng(9)
    found = []
    for _ in range(300):
        values = random.lognormal(2, 0.8, 1_000)
        found.append((p95_of(_bucketed(values)), float(np.quantile(values, 0.95))))
    estimates = [estimate for estimate, _ in found if estimate is not None]
    assert len(estimates) == 300
    assert all(estimate.value == pytest.approx(exact, rel=0.03) for estimate, exact in found if estimate)
    spread = float(np.std([estimate.value for estimate in estimates]))
    assert float(np.mean([math.sqrt(estimate.variance) for estimate in estimates])) == pytest.approx(spread, rel=0.15)


def _bucketed(values: np.ndarray) -> list[DurationRecord]:
    places, counts = np.unique(np.ceil(np.log(values * 1_000) / math.log(DURATION_GROWTH)), return_counts=True)
    return [
        DurationRecord("a", int(place), int(count), 2.0 * count, 4.0 * count)
        for place, count in zip(places, counts, strict=True)
    ]


def test_percentiles_of_few_are_none() -> None:
    assert p95_of([]) is None
    assert p95_of(_bucketed(np.arange(1, 20))) is None


@pytest.mark.parametrize(
    ("units", "is_mismatch"), [([5_000, 5_050], False), ([5_000, 5_500], True), ([3, 40], True), ([0, 3], False)]
)
def test_a_split_that_is_not_the_planned_one(units: list[int], *, is_mismatch: bool) -> None:
    arrivals = [ArrivalsRecord(1, f"v{place}", number, number, 0, 0) for place, number in enumerate(units)]
    split = split_of(arrivals, [AllocationRecord(1, [5_000, 5_000], "planned", NOW)], {"v0": 0, "v1": 1})
    assert split.is_mismatch is is_mismatch


def test_a_split_is_looked_at_under_whichever_shares_units_came() -> None:
    arrivals = [
        ArrivalsRecord(1, "v0", 500, 0, 0, 0), ArrivalsRecord(1, "v1", 500, 0, 0, 0),
        ArrivalsRecord(2, "v0", 900, 0, 0, 0), ArrivalsRecord(2, "v1", 100, 0, 0, 0),
    ]  # fmt: skip
    shares = [AllocationRecord(1, [5_000, 5_000], "planned", NOW), AllocationRecord(2, [9_000, 1_000], "operator", NOW)]
    split = split_of(arrivals, shares, {"v0": 0, "v1": 1})
    assert (split.units, split.expected) == ([1_400, 600], [1_400, 600])
    assert split.p_value == 1.0
    gone = split_of(arrivals, [AllocationRecord(1, [10_000, 0], "planned", NOW), shares[1]], {"v0": 0, "v1": 1})
    assert gone.is_mismatch


def test_corrections() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    assert holm(p_values) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert benjamini_hochberg(p_values) == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert holm([]) == benjamini_hochberg([]) == []


def test_a_plan_is_the_textbooks_and_more_where_one_may_look_often() -> None:
    needed = needed_units(Before(0.0, 4.0), 0.2, [0.5, 0.5], is_rate=False)
    assert needed.fixed_horizon == 3_140
    assert 1.5 < needed.always_valid / needed.fixed_horizon < 2.2
    uneven = needed_units(Before(0.0, 4.0), 0.2, [0.9, 0.1], is_rate=False)
    several = needed_units(Before(0.0, 4.0), 0.2, [0.25] * 4, is_rate=False)
    assert min(uneven.always_valid, several.always_valid) > needed.always_valid
    rarer = needed_units(Before(0.9, 0.09), 0.05, [0.5, 0.5], is_rate=True)
    worse = needed_units(Before(0.9, 0.09), -0.05, [0.5, 0.5], is_rate=True)
    assert rarer.always_valid < worse.always_valid


@pytest.mark.parametrize("effect", [1e-9, 1e-200, 5e-324, 1e12])
def test_a_plan_for_any_effect_is_a_number(effect: float) -> None:
    needed = needed_units(Before(0.9, 0.09), effect, [0.5, 0.5], is_rate=False)
    assert 0 <= needed.fixed_horizon <= needed.always_valid <= 1e15


def test_what_can_be_found_by_now_has_a_power_of_80_percent() -> None:
    found = compared(sums_of_values("a", "x", np.arange(100.0)), sums_of_values("b", "x", np.arange(100.0)))
    effect = detectable_effect(found, PLANNED, 0.05)
    assert power_of(found, effect, PLANNED, 0.05) == pytest.approx(0.8)


def _cells(means: Mapping[Any, float], names: list[str]) -> list[tuple[dict[str, str], Estimate]]:
    return [
        (dict(zip(names, levels, strict=True)), Estimate(100, 100, mean, mean, 0.01)) for levels, mean in means.items()
    ]


def test_effects_of_all_combinations() -> None:
    means = {
        (one, other): 1.0 + 2.0 * (one == "b") + 0.5 * (other == "y") - 0.3 * (one == "b") * (other == "y")
        for one in "ab" for other in "xyz"
    }  # fmt: skip
    found = {
        effect.term.name: effect
        for effect in effects_of(_cells(means, ["one", "other"]), {"one": ["a", "b"], "other": ["x", "y", "z"]}, 600)
    }
    assert found["one=b"].effect.value == pytest.approx(2.0 - 0.1)
    assert found["other=y"].effect.value == pytest.approx(0.5 - 0.15)
    assert found["other=z"].effect.value == pytest.approx(0.0)
    assert found["one=b and other=y"].effect.value == pytest.approx(-0.3)
    # The mean of three cells beside that of three: twice a third of 0.01.
    width = (found["one=b"].effect.fixed_high - found["one=b"].effect.value) / stats.t.ppf(0.975, 600 - 6)
    assert width == pytest.approx(math.sqrt(2 * 0.01 / 3))
    assert all(effect.aliases == [] for effect in found.values())


def test_effects_of_half_of_the_combinations_name_what_they_take_in() -> None:
    means = {("0", "0", "0"): 1.0, ("0", "1", "1"): 2.0, ("1", "0", "1"): 3.0, ("1", "1", "0"): 5.0}
    factors = {name: ["0", "1"] for name in "abc"}
    found = effects_of(_cells(means, ["a", "b", "c"]), factors, 400)
    assert [effect.term.name for effect in found] == ["a=1", "b=1", "c=1"]
    assert [effect.aliases for effect in found] == [["b=1 and c=1"], ["a=1 and c=1"], ["a=1 and b=1"]]
    assert [effect.effect.value for effect in found] == pytest.approx([2.5, 1.5, -0.5])


def test_a_bandit_gives_more_to_what_is_better_and_the_floor_to_all() -> None:
    random = np.random.default_rng(10)
    estimates = [Estimate(1_000, 1_000, mean, mean, 0.0001) for mean in (0.80, 0.81, 0.84)]
    chances = bandits.chances_to_be_best(estimates, 1, random)
    assert chances.sum() == pytest.approx(1)
    assert chances.argmax() == 2
    weights = bandits.adapted(AllocationMode.THOMPSON, estimates, 1, floor_buckets=500, random=random)
    assert sum(weights) == 10_000
    assert weights[2] > 8_000
    assert min(weights) >= 500
    lower = bandits.adapted(AllocationMode.THOMPSON, estimates, -1, floor_buckets=500, random=random)
    assert lower[0] > lower[1] > lower[2]
    two = bandits.adapted(AllocationMode.TOP_TWO, estimates, 1, floor_buckets=500, random=random)
    assert 4_000 < two[2] < 6_500
    gone = bandits.adapted(AllocationMode.THOMPSON, [*estimates[:2], None], 1, floor_buckets=500, random=random)
    assert gone[2] == 0
    assert sum(gone) == 10_000
