"""What follows from a try to store several outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from libs.common.database.states import State
from libs.common.errors import ErrorCode, GenerationError
from services.poller.store_decisions import after_try, with_fresh
from tests.support.catalogs import PROVIDER
from tests.unit.test_after_failure import AWAY, GONE, REFUSED, RESULT

A, B = ({"type": "image", "url": f"https://example.com/{name}.png"} for name in "ab")
STORED: dict[str, Any] = {"type": "image", "object_key": "k/0.png"}
KEPT = {"type": "image", "stored": STORED}


def test_what_is_stored_stands_in_place_of_its_source_until_the_next_try() -> None:
    outcome = after_try(replace(RESULT, sources=[A, B]), [STORED, GONE], PROVIDER)
    assert (outcome.state, outcome.sources, outcome.outputs) == (State.STORING, [KEPT, B], None)
    again = after_try(replace(RESULT, sources=[KEPT, B]), [STORED, STORED], PROVIDER)
    assert (again.state, again.outputs) == (State.SUCCESS, [STORED, STORED])


def test_at_the_deadline_the_stored_ones_are_the_result() -> None:
    late = replace(RESULT, sources=[A, KEPT], waiting_seconds=601)
    outcome = after_try(late, [GONE, STORED], PROVIDER)
    assert (outcome.state, outcome.outputs, outcome.error) == (State.SUCCESS, [STORED], None)
    none = after_try(replace(late, sources=[A, B]), [GONE, AWAY], PROVIDER)
    assert (none.state, none.error) == (State.FAILED, GONE.to_json())


def test_a_spooled_output_is_waited_for_although_another_is_given_up() -> None:
    late = replace(RESULT, sources=[A, {"type": "image", "spooled": 0}], waiting_seconds=601)
    assert after_try(late, [GONE, AWAY], PROVIDER).state is State.STORING
    assert after_try(late, [GONE, STORED], PROVIDER).state is State.SUCCESS


def test_an_account_that_gives_one_output_refuses_the_other_for_its_own_sake() -> None:
    sources = [{**source, "needs_credentials": True} for source in (A, B)]
    outcome = after_try(replace(RESULT, sources=sources), [STORED, REFUSED], PROVIDER)
    assert (outcome.refused_by, outcome.taken_by) == (None, "bfl")
    both = after_try(replace(RESULT, sources=sources), [REFUSED, REFUSED], PROVIDER)
    assert (both.refused_by, both.taken_by) == ("bfl", None)
    mixed = after_try(replace(RESULT, sources=[A, sources[1]]), [GONE, REFUSED], PROVIDER)
    assert mixed.error == REFUSED.to_json()


def test_fresh_urls_are_taken_for_what_is_missing_alone() -> None:
    fresh = [{"type": "image", "url": f"https://example.com/new/{number}.png"} for number in range(3)]
    assert with_fresh([A, B], fresh[:1]) == fresh[:1]
    assert with_fresh([KEPT, B], fresh[:2]) == [KEPT, fresh[1]]
    assert with_fresh([KEPT, B], fresh) == [KEPT, fresh[1], fresh[2]]
    assert with_fresh([KEPT, B], fresh[:1]) is None
    assert with_fresh([A, B], []) is None


def test_a_wait_is_the_shortest_of_those_that_are_tried_again() -> None:
    hurried = GenerationError(ErrorCode.PROVIDER_UNAVAILABLE, "busy")
    refused = GenerationError(ErrorCode.INVALID_REQUEST, "The URL is refused.")
    outcome = after_try(replace(RESULT, sources=[A, B]), [refused, hurried], PROVIDER)
    assert outcome.delay_seconds < 300
