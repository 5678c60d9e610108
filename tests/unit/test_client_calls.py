"""Which generation answers a call of a client that repeats calls by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records_edge import ClientCall, Leaving
from libs.common.database.stores.client_call_matching import Made, Recent, Refusal, match, may_be_left, repeats_refused
from libs.common.database.stores.client_calls import key_of
from services.gateway.client_calls import METADATA_KEY, client_call_of, metadata_value

NOW = 1_000_000.0
FIRST = ClientCall("d", 0, received=0.0, window_seconds=180.0)
RETRY = replace(FIRST, retry_count=1)
UNCOUNTED = replace(FIRST, retry_count=None)


def _matched(recent: Recent, call: ClientCall, waited_seconds: float = 0.0) -> str | None:
    return match(recent, call, now=NOW, waited_seconds=waited_seconds)


def test_first_calls_create_their_own_generations() -> None:
    assert _matched({}, FIRST) is None
    assert _matched({"a": Made(NOW - 1), "b": Made(NOW - 1, retry_count=2, answered_at=NOW)}, FIRST) is None


def test_an_uncounted_call_takes_the_generation_whose_client_has_just_lost_its_connection() -> None:
    assert _matched({"left": Made(NOW - 9, left_at=NOW - 5), "other": Made(NOW - 1)}, UNCOUNTED) == "left"
    assert _matched({"left": Made(NOW - 99, left_at=NOW - 40)}, UNCOUNTED) is None
    assert _matched({"answered": Made(NOW - 9, left_at=NOW - 5, answered_at=NOW - 1)}, UNCOUNTED) is None
    assert _matched({"left": Made(NOW - 9, left_at=NOW - 5)}, FIRST) is None, "its client counts its repeats"
    assert _matched({"counted": Made(NOW - 9, left_at=NOW - 5, is_counted=True)}, UNCOUNTED) is None


def test_an_uncounted_call_waits_for_news_of_an_identical_one_without_an_answer() -> None:
    assert may_be_left({"open": Made(NOW - 9)}, UNCOUNTED, now=NOW)
    assert may_be_left({"on its way": Made(NOW - 9, answered_at=NOW + 1)}, UNCOUNTED, now=NOW)
    assert not may_be_left({"open": Made(NOW - 9)}, FIRST, now=NOW)
    assert not may_be_left({"old": Made(NOW - 31)}, UNCOUNTED, now=NOW)
    assert not may_be_left({"answered": Made(NOW - 9, answered_at=NOW - 8)}, UNCOUNTED, now=NOW)
    assert not may_be_left({"counted": Made(NOW - 9, is_counted=True)}, UNCOUNTED, now=NOW)


def test_a_retry_takes_the_generation_that_was_not_answered() -> None:
    assert _matched({"lost": Made(NOW - 5), "answered": Made(NOW - 1, answered_at=NOW)}, RETRY) == "lost"
    assert _matched({"answered": Made(NOW - 99, answered_at=NOW - 5)}, RETRY) == "answered"
    assert _matched({"on its way": Made(NOW - 99, answered_at=NOW + 99)}, RETRY) == "on its way"


def test_a_retry_takes_the_generation_whose_client_has_left_before_one_whose_client_waits() -> None:
    assert _matched({"left": Made(NOW - 5, left_at=NOW - 1), "waits": Made(NOW - 1)}, RETRY) == "left"
    assert _matched({"waits": Made(NOW - 5), "left": Made(NOW - 1, left_at=NOW - 1)}, RETRY) == "left"


def test_a_retry_takes_the_generation_of_a_client_that_counts_before_that_of_another() -> None:
    counted, uncounted = Made(NOW - 9, is_counted=True), Made(NOW - 1, left_at=NOW - 1)
    assert _matched({"counted": counted, "uncounted": uncounted}, RETRY) == "counted"
    answered = replace(counted, answered_at=NOW - 1)
    assert _matched({"counted": answered, "uncounted": uncounted}, RETRY) == "counted"


def test_a_retry_long_after_the_answer_to_an_identical_call_creates_its_own_generation() -> None:
    assert _matched({"answered": Made(NOW - 30, answered_at=NOW - 20)}, RETRY) is None


@pytest.mark.parametrize(
    ("timeout_seconds", "tried_before", "is_joined"),
    [(600.0, 602.0, True), (600.0, 140.0, False), (600.0, 640.0, False), (135.0, 135.5, True), (0.0, 602.0, False)],
)
def test_a_retry_after_the_clients_timeout_takes_the_generation_whose_answer_did_not_arrive(
    timeout_seconds: float, tried_before: float, is_joined: bool
) -> None:
    made = Made(NOW - tried_before, answered_at=NOW - tried_before + 2 - 100, tried_at=NOW - tried_before)
    retry = replace(RETRY, timeout_seconds=timeout_seconds)
    assert (_matched({"answered": made}, retry) == "answered") is is_joined


def test_a_retry_after_the_timeout_of_a_proxy_takes_the_generation_whose_answer_did_not_arrive() -> None:
    made = Made(NOW - 121, answered_at=NOW - 119, tried_at=NOW - 121)
    assert _matched({"answered": made}, RETRY) == "answered"
    made.retry_count = 1
    assert _matched({"answered": made}, RETRY) is None, "another call's retry has taken it"
    assert _matched({"answered": made}, replace(RETRY, retry_count=2)) == "answered"


def test_one_retry_of_a_refused_call_creates_its_own_generation() -> None:
    refusals = [Refusal(NOW - 1, 0), Refusal(NOW - 24, 1)]
    assert not repeats_refused(refusals, {}, FIRST, now=NOW)
    assert repeats_refused(refusals, {"older": Made(NOW - 6)}, RETRY, now=NOW)
    assert not repeats_refused(refusals, {}, RETRY, now=NOW), "it had one retry"
    assert not repeats_refused(refusals, {}, replace(RETRY, retry_count=2), now=NOW), "it is too long ago"


@pytest.mark.parametrize(
    ("wait_seconds", "count", "refused_before", "is_repeated"),
    [(60.0, 0, 61.0, True), (60.0, 0, 66.0, False), (60.0, 0, 30.0, False), (2.0, 0, 2.1, True), (2.0, 0, 0.5, False),
     (3_600.0, 0, 0.4, True), (0.0, 0, 5.4, True), (0.0, 0, 6.0, False), (0.0, 4, 7.0, True), (0.0, 4, 2.0, False)],
)  # fmt: skip
def test_a_retry_of_a_refused_call_comes_when_its_client_was_told_to(
    wait_seconds: float, count: int, refused_before: float, *, is_repeated: bool
) -> None:
    refusals = [Refusal(NOW - refused_before, count, wait_seconds)]
    assert repeats_refused(refusals, {}, replace(RETRY, retry_count=count + 1), now=NOW) is is_repeated


def test_a_retry_is_of_a_call_whose_client_has_left_rather_than_of_one_refused_before() -> None:
    left, still_open = Made(NOW - 1, left_at=NOW - 0.5), Made(NOW - 1)
    assert not repeats_refused([Refusal(NOW - 2, 0)], {"left": left}, RETRY, now=NOW)
    assert repeats_refused([Refusal(NOW - 2, 0)], {"open": still_open}, RETRY, now=NOW)
    answered = Made(NOW - 1, answered_at=NOW - 0.5)
    assert repeats_refused([Refusal(NOW - 2, 0)], {"answered": answered}, RETRY, now=NOW)


def test_retries_of_two_calls_take_one_generation_each() -> None:
    recent = {"a": Made(NOW - 2), "b": Made(NOW - 1)}
    first = _matched(recent, RETRY)
    assert first == "b"
    recent[first].retry_count = 1
    assert _matched(recent, RETRY) == "a"
    recent["a"].retry_count = 1
    assert _matched(recent, RETRY) == "b", "a third one is a guess, and is not paid for"


def test_a_retry_after_the_window_creates_a_generation() -> None:
    assert _matched({"old": Made(NOW - 181)}, RETRY) is None
    assert _matched({"tried": Made(NOW - 999, tried_at=NOW - 179)}, RETRY) == "tried"


@pytest.mark.parametrize(
    ("waited_seconds", "expected"), [(3.4, "a"), pytest.param(2.7, None, id="received after the repeat")]
)
def test_a_first_call_takes_what_its_own_repeat_created(waited_seconds: float, expected: str | None) -> None:
    recent = {"a": Made(NOW - 3, retry_count=1, is_by_retry=True, received_at=NOW - 3)}
    assert _matched(recent, FIRST, waited_seconds) == expected
    assert _matched({"a": Made(NOW - 3)}, FIRST, waited_seconds) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "1 1.0 1.0 0",
        "x 1 1 0 t",
        "-1 1.0 1.0 0 t",
        "1 nan 1.0 0 t",
        "1 1.0 inf 0 t",
        "1 1.0 0 0 t",
        "1 1.0 1.0 -1 t",
        "1 1.0 1.0 nan t",
    ],
)
def test_metadata_that_cannot_be_read_marks_no_client_call(value: str) -> None:
    assert client_call_of({METADATA_KEY: value}, "key_1", gateway_pb2.CreateGenerationRequest()) is None


def test_a_client_that_counts_no_repeats_is_told_from_a_first_call() -> None:
    calls = [
        client_call_of(
            {METADATA_KEY: metadata_value(count, 1.5, 180.0, 0.0, Leaving())},
            "k",
            gateway_pb2.CreateGenerationRequest(),
        )
        for count in (None, 0)
    ]
    assert [call and (call.retry_count, call.count) for call in calls] == [(None, 0), (0, 0)]


def test_a_client_call_has_the_digest_of_its_key_and_request() -> None:
    leaving = Leaving()
    metadata = {METADATA_KEY: metadata_value(2, 1.5, 180.0, 35.0, leaving)}
    request = gateway_pb2.CreateGenerationRequest(prompt="x")
    call = client_call_of(metadata, "key_1", request)
    assert call is not None
    assert (call.retry_count, call.received, call.window_seconds, call.timeout_seconds) == (2, 1.5, 180.0, 35.0)
    assert call.leaving is leaving
    other_key, other = (
        client_call_of(metadata, "key_2", request),
        client_call_of(metadata, "key_1", gateway_pb2.CreateGenerationRequest(prompt="y")),
    )
    assert other_key is not None
    assert other is not None
    assert len({call.digest, other_key.digest, other.digest}) == 3
    request.idempotency_key = "mine"
    assert client_call_of(metadata, "key_1", request) is None


def test_the_client_of_a_call_that_is_answered_no_more_has_left() -> None:
    metadata = {METADATA_KEY: metadata_value(0, 1.5, 180.0, 0.0, Leaving())}
    call = client_call_of(metadata, "k", gateway_pb2.CreateGenerationRequest())
    assert call is not None
    assert call.leaving.has_left


def test_no_key_of_a_caller_is_that_of_a_client_call() -> None:
    assert len(key_of("0" * 64)) > 200
