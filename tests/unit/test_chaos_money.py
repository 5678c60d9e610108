"""The audit of money finds what is wrong: each doctored case must be reported, and the sound one must not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chaos.money import (
    Generation,
    Moment,
    Snapshot,
    Submission,
    billed_twice,
    discarded,
    faults,
    late_results_missing,
    micros,
    owed,
    without_inputs,
)

PRICE = 40_000


def bill(prompt: str, task_id: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "vendor": "bfl",
        "task_id": task_id or prompt,
        "prompt": prompt,
        "price_usd": 0.04,
        "inputs": 0,
        "outcome": "succeeded",
        "ready_at": 1_000.0,
        "is_refunded": False,
    } | changes


def done(prompt: str, **changes: Any) -> Generation:
    return replace(Generation(f"gen_{prompt}", prompt, "SUCCESS", spent=PRICE), **changes)


def submitted(prompt: str, number: int = 1, **changes: Any) -> Submission:
    return replace(Submission(f"sub_{prompt}_{number}", f"gen_{prompt}", "ACCEPTED"), **changes)


def of(*found: Generation | Submission, **sums: int) -> Snapshot:
    """A snapshot whose sums are what its rows come to, but for those that are given."""
    generations = [one for one in found if isinstance(one, Generation)]
    submissions = [one for one in found if isinstance(one, Submission)]
    counted = {
        "reserved": sum(one.reserved for one in generations),
        "spent": sum(one.spent for one in found),
        "at_risk": sum(one.at_risk for one in submissions),
    }
    return Snapshot(generations, submissions, **(counted | sums))


SOUND = of(done("a"), done("b"), submitted("a"), submitted("b"))
BILLS = [bill("a"), bill("b")]


@pytest.mark.parametrize("moment", Moment)
def test_sums_that_match_the_ledger_are_not_reported(moment: Moment) -> None:
    assert faults(SOUND, BILLS, BILLS, moment) == []
    assert discarded(SOUND, BILLS, BILLS) == []
    assert billed_twice(SOUND, BILLS) == []
    assert without_inputs(SOUND, BILLS) == []


def test_money_is_counted_in_whole_micro_dollars() -> None:
    assert [micros(usd) for usd in (0.003, 0.1 + 0.2, 0.056 * 5)] == [3_000, 300_000, 280_000]
    assert owed([bill("a", price_usd=0.025), bill("b", is_refunded=True)]) == 25_000


def test_a_missing_bill_is_reported() -> None:
    found = faults(SOUND, [bill("a")], [bill("a")], Moment.SETTLED)
    assert found == [
        "spent 0.080000 USD, the vendors bill 0.040000 USD",
        "b: spent 0.040000 USD, billed 0.000000 USD",
    ]


def test_a_second_bill_is_reported() -> None:
    twice = [*BILLS, bill("a", "again")]
    assert billed_twice(SOUND, twice) == ["a: 2 bills, consent to 1"]
    assert discarded(SOUND, twice, twice) == ["a: 2 paid results, and rows speak of 1"]
    assert "a: billed 0.080000 USD, spent, at risk and reserved are 0.040000 USD" in faults(
        SOUND, twice, twice, Moment.RUNNING
    )


def test_a_second_bill_that_was_taken_back_is_none() -> None:
    refunded = [*BILLS, bill("a", "again", is_refunded=True, outcome="cancelled")]
    assert billed_twice(SOUND, refunded) == []
    assert faults(SOUND, refunded, refunded, Moment.RESOLVED) == []


def test_only_the_requests_own_policy_consents_to_a_second_bill() -> None:
    first = submitted("a", 1, state="UNCERTAIN", resolution="RESUBMITTED", spent=PRICE)
    twice = [bill("a"), bill("a", "again")]
    assert billed_twice(of(done("a", may_resubmit=True), first), twice) == []
    assert billed_twice(of(done("a"), first), twice) == ["a: 2 bills, consent to 1"]


@pytest.mark.parametrize(
    "later",
    [
        {"is_late": True, "continues_id": "gen_a"},
        {"is_reused": True, "spent": 0},
        {"continues_id": "gen_a"},
    ],
)
def test_what_was_paid_before_consents_to_no_bill(later: dict[str, Any]) -> None:
    attached = submitted("a", resolution="ATTACHED")
    found = of(Generation("gen_a", "a", "FAILED"), done("a", id="gen_later", **later), attached)
    assert billed_twice(found, [bill("a"), bill("a", "again")]) == ["a: 2 bills, consent to 1"]


def test_a_resumed_generation_consents_to_one_more_bill() -> None:
    found = of(Generation("gen_a", "a", "FAILED"), done("a", id="gen_later", continues_id="gen_a"))
    assert billed_twice(found, [bill("a"), bill("a", "again")]) == []


def test_a_discarded_result_is_reported() -> None:
    found = of(Generation("gen_a", "a", "FAILED"), submitted("a"))
    bills = [bill("a")]
    assert discarded(found, bills, bills) == ["a: 1 paid results, and rows speak of 0"]
    assert "a: billed 0.040000 USD, spent, at risk and reserved are 0.000000 USD" in faults(
        found, bills, bills, Moment.SETTLED
    )


@pytest.mark.parametrize(
    "found",
    [
        of(Generation("gen_a", "a", "FAILED"), submitted("a", at_risk=PRICE)),
        of(Generation("gen_a", "a", "FAILED"), submitted("a", spent=PRICE)),
        of(Generation("gen_a", "a", "FAILED", spent=PRICE), submitted("a")),
        of(Generation("gen_a", "a", "PROCESSING", reserved=PRICE), submitted("a")),
        of(Generation("gen_a", "a", "CANCELLED"), submitted("a", at_risk=PRICE)),
    ],
)
def test_a_result_of_which_a_row_speaks_is_not_discarded(found: Snapshot) -> None:
    assert discarded(found, [bill("a")], [bill("a")]) == []
    assert faults(found, [bill("a")], [bill("a")], Moment.RUNNING) == []


def test_a_result_that_is_not_there_yet_is_not_discarded() -> None:
    found = of(Generation("gen_a", "a", "FAILED"), submitted("a"))
    bills = [bill("a", outcome="running")]
    assert discarded(found, bills, bills) == []


@pytest.mark.parametrize("name", ["reserved", "spent", "at_risk"])
@pytest.mark.parametrize("off", [-1, 1])
def test_a_sum_that_is_off_by_one_micro_dollar_is_reported(name: str, off: int) -> None:
    found = of(
        done("a"),
        Generation("gen_b", "b", "PROCESSING", reserved=PRICE),
        Generation("gen_c", "c", "FAILED"),
        submitted("c", at_risk=PRICE),
    )
    doctored = replace(found, **{name: getattr(found, name) + off})
    bills = [bill("a"), bill("b"), bill("c")]
    assert faults(found, bills, bills, Moment.RUNNING) == []
    (reported, *_) = faults(doctored, bills, bills, Moment.RUNNING)
    assert reported.startswith(f"{name.replace('_', ' ')}: the keys have ")


def test_a_request_cannot_hide_behind_anothers_reservation() -> None:
    found = of(Generation("gen_a", "a", "FAILED"), Generation("gen_b", "b", "PENDING", reserved=PRICE))
    assert faults(found, [bill("a")], [bill("a")], Moment.RUNNING) == [
        "a: billed 0.040000 USD, spent, at risk and reserved are 0.000000 USD"
    ]


def test_what_moves_between_the_readings_is_not_reported() -> None:
    running = bill("a", outcome="running")
    cancelled = bill("a", outcome="cancelled", is_refunded=True)
    nothing = of(Generation("gen_a", "a", "CANCELLED"), submitted("a"))
    assert faults(nothing, [running], [cancelled], Moment.RUNNING) == []
    assert faults(of(done("a")), [], [bill("a")], Moment.RUNNING) == []
    assert faults(of(), [], [bill("a")], Moment.RUNNING) == []


def test_at_rest_nothing_is_reserved() -> None:
    found = of(done("a"), reserved=1)
    assert "reserved 0.000001 USD, and nothing is in flight" in faults(found, [bill("a")], [bill("a")], Moment.SETTLED)


def test_once_all_is_resolved_spent_is_the_ledger() -> None:
    at_risk = of(Generation("gen_a", "a", "FAILED"), submitted("a", at_risk=PRICE))
    assert faults(at_risk, [bill("a")], [bill("a")], Moment.SETTLED) == []
    assert faults(at_risk, [bill("a")], [bill("a")], Moment.RESOLVED) == [
        "at risk 0.040000 USD, and all submissions are resolved",
        "spent 0.000000 USD, the vendors bill 0.040000 USD, and all submissions are resolved",
        "a: billed 0.040000 USD, spent 0.000000 USD after it was resolved",
    ]
    dearer = [bill("a", price_usd=0.040001)]
    assert len(faults(of(done("a")), dearer, dearer, Moment.RESOLVED)) == 3


def test_an_input_image_that_did_not_arrive_is_reported() -> None:
    found = of(done("a", inputs=2), done("b"))
    assert without_inputs(found, [bill("a", inputs=2), bill("b")]) == []
    assert without_inputs(found, [bill("a", inputs=1), bill("b")]) == ["a: 1 of 2 input images at bfl"]


def test_a_late_result_that_was_not_stored_is_reported() -> None:
    timed_out = Generation("gen_a", "a", "FAILED", code="TASK_TIMEOUT", task_id="t")
    found, bills = of(timed_out, submitted("a", at_risk=PRICE)), [bill("a", "t")]
    assert late_results_missing(found, bills, now=1_100.0) == ["gen_a a: t"]
    assert late_results_missing(found, bills, now=1_001.0) == []
    assert late_results_missing(found, [bill("a", "t", outcome="running")], now=1_100.0) == []
    late = done("a", id="gen_late", is_late=True, continues_id="gen_a")
    assert late_results_missing(of(timed_out, late), bills, now=1_100.0) == []
