"""What follows from how a submit went."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest

from libs.common.adapters.base import Adapter, Submitted
from libs.common.adapters.flux import Flux
from libs.common.catalog import Retry
from libs.common.database.records import Fallback
from libs.common.database.records_dispatch import ClaimedGeneration
from libs.common.database.states import State, SubmissionState
from libs.common.errors import ErrorCode, GenerationError, NotAccepted, NotFound, UnreadableReply
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
    released_at=datetime(2026, 1, 1, tzinfo=UTC),
)
# Decisions ask an adapter's class attributes alone, so none is connected.
JOB = Job(CLAIMED, MODEL, PROVIDER, cast("Adapter", Flux), attempt=1, submission_id="sub_1", latency_ms=12)
LOST = GenerationError(ErrorCode.PROVIDER_TIMEOUT, "no reply", {"http_status": 504})


def test_a_taken_submit_whose_outcome_cannot_be_written_is_uncertain() -> None:
    fault = GenerationError(ErrorCode.INTERNAL_ERROR, "The provider's answer cannot be kept.")
    taken = outcomes.unwritable(outcomes.accepted(JOB, Submitted("another generation's task")), fault)
    assert (taken.state, taken.submission_state, taken.task) == (State.FAILED, SubmissionState.UNCERTAIN, None)
    refused = outcomes.unwritable(outcomes.not_accepted(JOB, NotAccepted(ErrorCode.RATE_LIMITED, "busy")), fault)
    assert (refused.state, refused.submission_state) == (State.FAILED, SubmissionState.NOT_ACCEPTED)


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


KEPT = {"http_status": 200, "content_type": "text/html", "size_bytes": 13, "body": "<html>busy</html>"}


def test_a_reply_that_cannot_be_read_is_kept_and_names_the_provider() -> None:
    cause = UnreadableReply("it names no task", KEPT, {"http_status": 200})
    assert (cause.why, cause.message) == ("it names no task", "The provider's reply cannot be read: it names no task.")
    outcome = outcomes.uncertain(JOB, cause)
    assert (outcome.state, outcome.submission_state) == (State.FAILED, SubmissionState.UNCERTAIN)
    assert outcome.reply == KEPT
    assert outcome.error is not None
    assert (outcome.error["code"], outcome.error["is_retryable"]) == ("PROVIDER_ERROR", False)
    assert outcome.error["message"].startswith(
        "bfl answered 200 and its reply cannot be read: it names no task; it may have billed the request; the reply is "
        "kept with the submission."
    )
    assert "lost" not in outcome.error["message"]
    assert outcome.was_taken


def test_a_reply_that_cannot_be_read_is_kept_where_the_request_is_sent_again_by_policy() -> None:
    job = replace(JOB, claimed=replace(CLAIMED, when_uncertain="resubmit"))
    outcome = outcomes.uncertain(job, UnreadableReply("it is empty", KEPT))
    assert (outcome.state, outcome.submission_state, outcome.reply) == (State.PENDING, SubmissionState.UNCERTAIN, KEPT)


def test_outputs_that_are_no_media_leave_the_submit_uncertain_and_are_kept() -> None:
    outcome = outcomes.unusable(JOB, "The result is not image: its bytes are of no known type.", KEPT)
    assert (outcome.state, outcome.submission_state) == (State.FAILED, SubmissionState.UNCERTAIN)
    assert outcome.reply == KEPT
    assert outcome.error is not None
    assert outcome.error["code"] == "PROVIDER_ERROR"
    assert outcome.error["message"].startswith(
        "bfl answered 200 and its reply cannot be read: it has no output that can be used "
        '("The result is not image: its bytes are of no known type.");'
    )


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


OTHERS = (Fallback("flux-dev", "bfl", {}, 0.025), Fallback("dall-e-3", "tuzi", {}, 0.04))
WITH_FALLBACKS = replace(JOB, claimed=replace(CLAIMED, fallbacks=OTHERS), attempt=3)


@pytest.mark.parametrize(
    ("code", "goes_on"),
    [
        (ErrorCode.QUOTA_EXCEEDED, True),
        (ErrorCode.AUTHENTICATION_FAILED, True),
        (ErrorCode.PROVIDER_UNAVAILABLE, True),
        (ErrorCode.RATE_LIMITED, True),
        (ErrorCode.CONTENT_REJECTED, False),
        (ErrorCode.INVALID_REQUEST, False),
    ],
)
def test_a_refusal_for_the_accounts_own_reasons_goes_to_another_account(code: ErrorCode, goes_on: bool) -> None:
    outcome = outcomes.not_accepted(WITH_FALLBACKS, NotAccepted(code, "no"))
    assert (outcome.state, outcome.fallback) == ((State.PENDING, 1) if goes_on else (State.FAILED, None))


def test_the_same_account_is_tried_again_before_another() -> None:
    outcome = outcomes.not_accepted(
        replace(WITH_FALLBACKS, attempt=1), NotAccepted(ErrorCode.RATE_LIMITED, "slow down")
    )
    assert (outcome.state, outcome.fallback) == (State.PENDING, None)


def test_the_next_model_has_attempts_of_its_own() -> None:
    here = replace(JOB, claimed=replace(CLAIMED, attempts_elsewhere=3), attempt=4)
    assert here.attempts_here == 1
    assert outcomes.not_accepted(here, NotAccepted(ErrorCode.RATE_LIMITED, "slow down")).state is State.PENDING


def test_what_may_run_elsewhere_goes_nowhere() -> None:
    job = replace(WITH_FALLBACKS, claimed=replace(WITH_FALLBACKS.claimed, may_run_elsewhere=True))
    outcome = outcomes.not_accepted(job, NotAccepted(ErrorCode.QUOTA_EXCEEDED, "no"))
    assert (outcome.state, outcome.fallback) == (State.FAILED, None)


def test_an_uncertain_submit_goes_nowhere() -> None:
    assert outcomes.uncertain(WITH_FALLBACKS, LOST).fallback is None
    assert outcomes.uncertain(WITH_FALLBACKS, LOST).state is State.FAILED


def test_missing_credentials_go_to_another_account_without_an_attempt() -> None:
    outcome = outcomes.refused(WITH_FALLBACKS.claimed, GenerationError(ErrorCode.AUTHENTICATION_FAILED, "not set"))
    assert (outcome.state, outcome.fallback, outcome.submission_id) == (State.PENDING, 1, None)


def test_a_task_that_is_reported_is_polled_at_a_slower_pace() -> None:
    provider = PROVIDER.model_validate({**PROVIDER.model_dump(mode="json"), "webhooks": {"secret": "SECRET"}})
    task = outcomes.accepted(replace(JOB, provider=provider), Submitted("task", reports=True)).task
    assert task is not None
    assert (task.strategy, task.poll_interval_ms) == ("fixed", 30_000)
    plain = outcomes.accepted(replace(JOB, provider=provider), Submitted("task")).task
    assert plain is not None
    assert plain.poll_interval_ms == 2_500


def test_what_the_provider_did_not_take_costs_nothing() -> None:
    assert not outcomes.put_back(CLAIMED).was_taken
    assert not outcomes.not_accepted(JOB, NotAccepted(ErrorCode.RATE_LIMITED, "slow down")).was_taken
    assert outcomes.uncertain(JOB, LOST).was_taken
    assert outcomes.accepted(JOB, Submitted("task")).was_taken
