"""What follows from how a submit went."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from libs.common.adapters.base import Adapter, Submitted
from libs.common.adapters.flux import Flux
from libs.common.catalog import Retry
from libs.common.database.records import ClaimedGeneration
from libs.common.database.states import State, SubmissionState
from libs.common.errors import ErrorCode, GenerationError, NotAccepted, NotFound
from services.dispatcher import outcomes
from services.dispatcher.outcomes import Job
from tests.support.catalogs import MODEL, PROVIDER


class Idempotent(Flux):
    """A vendor that takes our id and bills it once."""

    idempotent_submit = True


CLAIMED = ClaimedGeneration(
    id="gen_1",
    model_identifier="flux-pro",
    provider_id="bfl",
    media_type="image",
    prompt="a red apple",
    input_images=[],
    number_of_outputs=1,
    parameters={},
    when_uncertain="fail",
    user_id=None,
    request_id="req_1",
    attempts=0,
    lease_token=3,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
# Decisions ask an adapter's class attributes alone, so none is connected.
JOB = Job(CLAIMED, MODEL, PROVIDER, cast("Adapter", Flux), attempt=1, submission_id="sub_1", latency_ms=12)
LOST = GenerationError(ErrorCode.PROVIDER_TIMEOUT, "no reply", {"http_status": 504})


def test_an_accepted_submit_is_handed_over_with_its_strategy() -> None:
    outcome = outcomes.accepted(JOB, Submitted("task", "https://api.example.com/check"))
    assert (outcome.state, outcome.submission_state) == (State.PROCESSING, SubmissionState.ACCEPTED)
    assert outcome.task is not None
    assert (outcome.task.strategy, outcome.task.poll_interval_ms, outcome.task.max_duration_seconds) == (
        "fixed",
        2_500,
        600,
    )


def test_what_was_provably_not_taken_is_tried_again_later() -> None:
    outcome = outcomes.not_accepted(JOB, NotAccepted(ErrorCode.RATE_LIMITED, "slow", retry_after_seconds=7))
    assert (outcome.state, outcome.submission_state) == (State.PENDING, SubmissionState.NOT_ACCEPTED)
    assert outcome.delay_seconds >= 7


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        pytest.param(1, NotAccepted(ErrorCode.INVALID_REQUEST, "bad"), id="a refusal for good"),
        pytest.param(3, NotAccepted(ErrorCode.RATE_LIMITED, "slow"), id="the last attempt"),
    ],
)
def test_a_refusal_for_good_and_the_last_attempt_fail_with_their_reason(attempt: int, error: NotAccepted) -> None:
    outcome = outcomes.not_accepted(replace(JOB, attempt=attempt), error)
    assert outcome.state is State.FAILED
    assert outcome.error is not None
    assert outcome.error["code"] == error.code


def test_a_lost_reply_fails_by_default_and_tells_an_operator_what_to_look_for() -> None:
    outcome = outcomes.uncertain(JOB, LOST)
    assert (outcome.state, outcome.submission_state) == (State.FAILED, SubmissionState.UNCERTAIN)
    assert outcome.error is not None
    assert outcome.error["code"] == "SUBMISSION_UNCERTAIN"
    assert outcome.error["details"] == {
        "provider": "bfl",
        "submission_id": "sub_1",
        "cause": "PROVIDER_TIMEOUT",
        "cause_message": "no reply",
        "http_status": 504,
    }


def test_a_lost_reply_is_submitted_again_where_that_was_asked_for() -> None:
    job = replace(JOB, claimed=replace(CLAIMED, when_uncertain="resubmit"))
    outcome = outcomes.uncertain(job, LOST)
    assert (outcome.state, outcome.submission_state) == (State.PENDING, SubmissionState.UNCERTAIN)


def test_a_lost_reply_is_submitted_again_where_the_vendor_bills_an_id_once() -> None:
    job = replace(JOB, adapter=cast("Adapter", Idempotent))
    assert outcomes.uncertain(job, LOST).state is State.PENDING


def test_repeats_of_uncertain_submits_are_bounded() -> None:
    job = replace(JOB, attempt=3, claimed=replace(CLAIMED, when_uncertain="resubmit"))
    provider = PROVIDER.model_copy(update={"retry": Retry(attempts=3)})
    assert outcomes.uncertain(replace(job, provider=provider), LOST).state is State.FAILED


def test_a_model_that_this_catalog_does_not_know_yet_is_waited_for() -> None:
    outcome = outcomes.deferred(CLAIMED, NotFound("model_identifier", "There is no such model."))
    assert (outcome.state, outcome.submission_id) == (State.PENDING, None)
    assert outcome.delay_seconds > 0


def test_an_attempt_without_an_outcome_stays_uncertain_when_the_catalog_drops_its_model() -> None:
    claimed = replace(CLAIMED, open_submission_id="sub_1")
    outcome = outcomes.unresolvable(claimed, NotFound("model_identifier", "There is no such model."))
    assert (outcome.state, outcome.submission_state) == (State.FAILED, SubmissionState.UNCERTAIN)
    assert outcome.submission_id == "sub_1"
    assert outcome.error is not None
    assert outcome.error["code"] == "SUBMISSION_UNCERTAIN"
