"""Who has won and why, in words; and why nobody has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from bench.experiments.simulated import NOW, experiment_with, sums_of
from libs.common.database.records_experiments import (
    AllocationRecord,
    ArrivalsRecord,
    ExperimentRecord,
    Measured,
    MetricRecord,
    PlanRecord,
    SegmentRecord,
    SumsRecord,
)
from libs.common.database.states import AllocationMode, ExperimentStatus, MetricGoal, MetricRole
from services.experiments.adapting import broken_guardrail, without
from services.experiments.analysis import words
from services.experiments.analysis.judging import Evidence, judged
from services.experiments.results import Asked, Results, results_of

COST = MetricRecord("avg_cost", MetricRole.PRIMARY, MetricGoal.MINIMIZE)
RATE = MetricRecord("success_rate", MetricRole.GUARDRAIL, MetricGoal.MAXIMIZE, margin=0.03)
Side = tuple[int, float, float]
"""Units, mean cost in US dollars, share of successes."""


def experiment(
    variants: int = 2, *, metrics: Sequence[MetricRecord] = (COST, RATE), planned: int = 0
) -> ExperimentRecord:
    """An experiment that decides by cost, which may not cost successes."""
    made = experiment_with("avg_cost", variants, planned=planned)
    named = [replace(variant, name="abcdef"[place]) for place, variant in enumerate(made.variants)]
    return replace(made, metrics=list(metrics), variants=named)


def measured(sides: Sequence[Side], *, in_flight: int = 0, weights: Sequence[int] | None = None) -> Measured:
    """What was measured: costs that vary by a tenth, and successes."""
    sums: list[SumsRecord] = []
    arrivals = []
    for place, (units, cost, rate) in enumerate(sides):
        name, won = f"var_{place}", units * rate
        sums += [
            sums_of(name, "avg_cost", units, units * cost, units * cost**2 * 1.01),
            sums_of(name, "success_rate", units, won, won),
        ]
        arrivals.append(ArrivalsRecord(1, name, units, units + in_flight, units, 0))
    equal = [10_000 // len(sides)] * len(sides)
    equal[0] += 10_000 - sum(equal)
    return Measured(sums, arrivals, [], [AllocationRecord(1, list(weights or equal), "planned", NOW)])


def results(sides: Sequence[Side], made: ExperimentRecord | None = None, *, in_flight: int = 0) -> Results:
    """What follows."""
    made = made or experiment(len(sides))
    return results_of(made, measured(sides, in_flight=in_flight), [], Asked(NOW))


def test_the_cheaper_one_wins_and_the_sentence_says_what_it_costs() -> None:
    found = results([(2_000, 0.04, 0.99), (2_000, 0.0224, 0.983)])
    assert found.winner is not None
    assert found.winner.variant.name == "b"
    assert found.winner.confidence > 99
    assert found.winner.recommendation == (
        "Take 'b' (flux-pro): 44 % lower cost ($0.0224 against $0.04) with 0.7 points lower success rate (98.3 % "
        "against 99.0 %), within its margin, beside 'a'."
    )
    assert found.reason == ""


def test_the_control_may_win() -> None:
    found = results([(2_000, 0.02, 0.99), (2_000, 0.03, 0.99)])
    assert found.winner is not None
    assert found.winner.recommendation.startswith(
        "Keep 'a' (flux-pro): 33 % lower cost ($0.02 against $0.03) with the same"
    )


def test_no_difference_has_no_winner_and_says_what_is_missing() -> None:
    found = results([(1_000, 0.04, 0.99), (1_000, 0.0399, 0.99)], experiment(planned=8_000))
    assert found.winner is None
    assert found.reason == (
        "No winner yet: 'b' has 0.25 % lower cost ($0.0399 against $0.04) beside 'a', which may be chance (p = 1, "
        "however often one looks). 2,000 of 8,000 planned samples have come; the rest takes 21 days as it goes."
    )
    assert found.strength.outlook.remaining_days == pytest.approx(21)


def test_all_planned_samples_have_come() -> None:
    found = results([(4_000, 0.04, 0.99), (4_000, 0.0399, 0.99)], experiment(planned=8_000))
    assert found.reason.endswith(
        "All 8,000 planned samples have come: a difference worth finding would probably have shown."
    )
    ended = replace(experiment(planned=9_000), status=ExperimentStatus.COMPLETED, ended_at=NOW)
    assert results([(4_000, 0.04, 0.99), (4_000, 0.0399, 0.99)], ended).reason.endswith("have come, and no more will.")


def test_a_variant_that_breaks_a_guardrail_does_not_win() -> None:
    found = results([(2_000, 0.04, 0.99), (2_000, 0.02, 0.80)])
    assert found.winner is None
    assert found.reason.startswith("No winner: 'b' has 50 % lower cost")
    assert found.reason.endswith("but it breaks the guardrail success rate.")
    guardrail = next(one for one in found.comparisons if one.metric is RATE)
    assert guardrail.verdict == "broken"


def test_a_guardrail_that_is_not_settled_is_said_so() -> None:
    found = results([(200, 0.04, 0.97), (200, 0.02, 0.96)])
    assert found.winner is not None
    assert "not yet shown to be within its margin" in found.winner.recommendation


def test_a_split_that_is_not_the_planned_one_withholds_everything() -> None:
    found = results([(2_000, 0.04, 0.99), (1_500, 0.02, 0.99)])
    assert found.reason.startswith("Results are withheld: the split is not the planned one ('a' got 2,000 where 1,750")
    assert (found.estimates, found.comparisons, found.winner, found.costs) == ([], [], None, [])
    assert [came.units for came in found.counts] == [2_000, 1_500]


def test_too_few_and_too_many_in_flight_wait() -> None:
    few = results([(49, 0.04, 0.99), (60, 0.02, 0.99)])
    assert few.reason == "Too few samples: 49 came to 'a', and no less than 50 say anything."
    slow = results([(500, 0.04, 0.99), (500, 0.02, 0.99)], in_flight=50)
    assert slow.reason == "50 of 550 generations of 'a' have not ended; those that take long would be missing."
    assert few.winner is slow.winner is None
    draft = replace(experiment(), status=ExperimentStatus.DRAFT, started_at=None)
    assert results([(0, 0.0, 0.0), (0, 0.0, 0.0)], draft).reason == "The experiment has not started."


def test_of_several_the_winner_beats_all_others() -> None:
    found = results([(3_000, 0.04, 0.99), (3_000, 0.03, 0.99), (3_000, 0.02, 0.99)])
    assert found.winner is not None
    assert found.winner.variant.name == "c"
    open_ = results([(3_000, 0.04, 0.99), (3_000, 0.02001, 0.99), (3_000, 0.02, 0.99)])
    assert open_.winner is None
    assert "cannot be told from another variant" in open_.reason


def test_one_that_was_taken_out_neither_wins_nor_stands_in_the_way() -> None:
    made = experiment(3)
    gone = replace(made.variants[2], paused_at=NOW, pause_reason="It broke.")
    found = results(
        [(3_000, 0.04, 0.99), (3_000, 0.03, 0.99), (3_000, 0.01, 0.99)],
        replace(made, variants=[*made.variants[:2], gone]),
    )
    assert found.winner is not None
    assert found.winner.variant.name == "b"
    assert "Variant 'c' was taken out. It broke." in found.warnings


def test_costs_and_what_the_winner_saves() -> None:
    made = experiment()
    found = results([(2_000, 0.04, 0.99), (2_000, 0.02, 0.96)], made)
    assert [cost.spend_usd for cost in found.costs] == pytest.approx([80, 40])
    assert [cost.per_success_usd for cost in found.costs] == pytest.approx([80 / 1_980, 40 / 1_920])
    # In a week half of 4,000 cost two cents less: 40 dollars, in thirty days 171.43.
    assert found.saving_usd == pytest.approx(40 / 7 * 30)
    half = replace(made, target=replace(made.target, traffic_buckets=5_000))
    # As much again takes no part, and costs what the control does.
    assert results([(2_000, 0.04, 0.99), (2_000, 0.02, 0.96)], half).saving_usd == pytest.approx((40 + 80) / 7 * 30)
    young = replace(made, started_at=NOW - timedelta(minutes=30))
    assert results([(2_000, 0.04, 0.99), (2_000, 0.02, 0.96)], young).saving_usd is None


def test_return_for_each_dollar() -> None:
    made = experiment()
    rows = measured([(2_000, 0.04, 0.99), (2_000, 0.02, 0.96)])
    value = [sums_of("var_0", "revenue", 500, 120.0, 60.0), sums_of("var_1", "revenue", 500, 100.0, 50.0)]
    found = results_of(made, replace(rows, sums=[*rows.sums, *value]), [], Asked(NOW, value_metric="revenue"))
    assert [cost.return_per_usd for cost in found.costs] == pytest.approx([120 / 80, 100 / 40])


def test_shares_that_changed_and_shares_that_adapt_are_said() -> None:
    made = replace(experiment(), mode=AllocationMode.THOMPSON)
    rows = measured([(2_000, 0.04, 0.99), (2_000, 0.02, 0.96)])
    later = [replace(arrival, version=2) for arrival in rows.arrivals]
    shares = [*rows.allocations, AllocationRecord(2, [5_000, 5_000], "bandit", NOW)]
    found = results_of(made, replace(rows, arrivals=[*rows.arrivals, *later], allocations=shares), [], Asked(NOW))
    assert [warning[:20] for warning in found.warnings] == ["The shares have chan", "Shares adapt: varian"]


def _segment(name: str, control: tuple[int, float], variant: tuple[int, float]) -> list[SegmentRecord]:
    return [
        SegmentRecord(name, sums_of(f"var_{place}", "success_rate", units, units * rate, units * rate))
        for place, (units, rate) in enumerate((control, variant))
    ]


def test_simpsons_paradox_is_found() -> None:
    """Every segment says the opposite of the whole, because the hard one came to one variant more often."""
    made = experiment(metrics=[MetricRecord("success_rate", MetricRole.PRIMARY, MetricGoal.MAXIMIZE)])
    segments = [*_segment("easy", (200, 0.93), (800, 0.90)), *_segment("hard", (800, 0.73), (200, 0.65))]
    whole = measured([(1_000, 0.04, 0.77), (1_000, 0.04, 0.85)])
    found = results_of(made, whole, [], Asked(NOW, segments))
    assert [segment.value for segment in found.segments] == ["easy", "hard"]
    assert any("Simpson's paradox" in warning and "'b'" in warning for warning in found.warnings)


def test_a_segment_that_surely_reverses_the_whole_is_named() -> None:
    made = experiment(metrics=[MetricRecord("success_rate", MetricRole.PRIMARY, MetricGoal.MAXIMIZE)])
    segments = [*_segment("new", (3_000, 0.80), (3_000, 0.95)), *_segment("returning", (1_000, 0.95), (1_000, 0.70))]
    found = results_of(made, measured([(4_000, 0.04, 0.84), (4_000, 0.04, 0.89)]), [], Asked(NOW, segments))
    assert {segment.value: segment.reverses for segment in found.segments} == {"new": False, "returning": True}
    assert any(warning.startswith("Segment 'returning' reverses the whole") for warning in found.warnings)


def test_a_guardrail_is_broken_for_a_machine_only_when_nobody_would_doubt_it() -> None:
    broken = broken_guardrail(Evidence(experiment(), measured([(2_000, 0.04, 0.99), (2_000, 0.02, 0.80)])))
    assert broken is not None
    assert broken.variant.name == "b"
    doubtful = Evidence(experiment(), measured([(300, 0.04, 0.99), (300, 0.02, 0.935)]))
    assert broken_guardrail(doubtful) is None
    assert all(one.verdict in {"open", "better"} for one in judged(doubtful))


@pytest.mark.parametrize(
    ("weights", "position", "left"),
    [
        ([5_000, 5_000], 1, [10_000, 0]),
        ([5_000, 2_500, 2_500], 0, [0, 5_000, 5_000]),
        ([8_000, 1_000, 1_000], 2, [8_889, 1_111, 0]),
    ],
)
def test_the_others_share_what_was_taken_away(weights: list[int], position: int, left: list[int]) -> None:
    assert without(weights, position) == left


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (words.amount("success_rate", 0.9834), "98.3 %"),
        (words.amount("avg_cost", 0.0224), "$0.0224"),
        (words.amount("avg_duration", 1234.5), "1,230 s"),
        (words.amount("revenue", 3.14159), "3.14"),
        (words.change("avg_cost", 0.0224, 0.04), "44 % lower cost"),
        (words.change("success_rate", 0.983, 0.99), "0.7 points lower success rate"),
        (words.change("margin_usd", 2.0, -1.0), "3 higher margin usd"),
        (words.distance("success_rate", -0.0312), "3.1 points"),
        (words.surprise(1e-9), "p < 0.0001"),
        (words.surprise(0.0312), "p = 0.031"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.titled("avg_cost"), "cost, US dollars"),
        (words.titled("revenue"), "revenue"),
    ],
)  # fmt: skip
def test_numbers_in_words(text: str, wanted: str) -> None:
    assert text == wanted


def test_a_plan_without_samples_is_no_plan() -> None:
    assert Evidence(experiment(), measured([(100, 0.04, 0.9), (100, 0.04, 0.9)])).planned_units(
        *experiment().variants
    ) == 5_000  # fmt: skip
    made = replace(experiment(), plan=PlanRecord(samples=800))
    uneven = Evidence(made, measured([(100, 0.04, 0.9), (100, 0.04, 0.9)], weights=[7_500, 2_500]))
    assert uneven.planned_units(*made.variants) == 800
