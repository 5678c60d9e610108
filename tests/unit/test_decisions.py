"""What follows from a check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from libs.common.adapters.base import ProviderOutput, TaskStatus
from libs.common.catalog import StoragePolicy
from libs.common.database.records_tasks import ClaimedTask
from libs.common.database.states import State, TaskState
from libs.common.errors import ErrorCode, GenerationError, UnreadableReply
from services.poller.decisions import after_check, after_failed_check, cancelled, timed_out, unwritable
from tests.support.catalogs import MODEL, PROVIDER

UNSTORED = PROVIDER.model_copy(update={"storage": StoragePolicy(upload_to_s3=False)})
TASK = ClaimedTask(
    provider_id="bfl",
    task_id="t",
    generation_id="gen_1",
    model_identifier="flux-pro",
    request_id="req_1",
    adapter_name="flux",
    check_url=None,
    strategy="exponential",
    poll_interval_ms=1_000,
    attempts=0,
    retry_count=0,
    parameters={},
    media_type="image",
    lease_token=1,
    age_seconds=10,
    generation_age_seconds=11,
    lateness_seconds=0,
    seconds_left=590,
)
URL = ProviderOutput(url="https://delivery.example.com/1.png")
AWAY = GenerationError(ErrorCode.PROVIDER_UNAVAILABLE, "away")


@pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.PROCESSING])
def test_a_task_under_way_is_polled_again(state: TaskState) -> None:
    outcome = after_check(TASK, TaskStatus(state, progress=40), PROVIDER, MODEL)
    assert (outcome.generation_state, outcome.state, outcome.progress) == (None, state, 40)
    assert outcome.delay_seconds == pytest.approx(1.5, rel=0.1)


def test_a_result_goes_into_storage() -> None:
    outcome = after_check(TASK, TaskStatus(TaskState.SUCCESS, outputs=(URL,)), PROVIDER, MODEL)
    assert (outcome.generation_state, outcome.cost_usd) == (State.STORING, 0.04)
    assert outcome.sources == [{"type": "image", "url": URL.url}]
    assert outcome.outputs is None


def test_files_beside_those_that_were_asked_for_are_stored_and_cost_nothing() -> None:
    status = TaskStatus(TaskState.SUCCESS, outputs=(URL, URL, URL))
    outcome = after_check(replace(TASK, number_of_outputs=2), status, PROVIDER, MODEL)
    assert outcome.sources is not None
    assert (len(outcome.sources), outcome.cost_usd) == (3, 0.08)


def test_without_storage_the_providers_url_is_the_result() -> None:
    outcome = after_check(TASK, TaskStatus(TaskState.SUCCESS, outputs=(URL,)), UNSTORED, MODEL)
    assert outcome.generation_state is State.SUCCESS
    assert outcome.outputs == [{"type": "image", "url": URL.url}]


def test_what_the_provider_bills_wins_over_the_catalog() -> None:
    status = TaskStatus(TaskState.SUCCESS, outputs=(URL,), cost_usd=0.5)
    assert after_check(TASK, status, PROVIDER, MODEL).cost_usd == 0.5


def test_a_model_that_the_catalog_has_dropped_still_ends() -> None:
    outcome = after_check(TASK, TaskStatus(TaskState.SUCCESS, outputs=(URL,)), PROVIDER, None)
    assert (outcome.generation_state, outcome.cost_usd) == (State.STORING, None)


def test_success_without_an_output_is_checked_again() -> None:
    outcome = after_check(TASK, TaskStatus(TaskState.SUCCESS), PROVIDER, MODEL)
    assert (outcome.generation_state, outcome.state) == (None, None)
    assert (outcome.has_failed, outcome.is_answered) == (True, True)
    assert outcome.error is not None
    assert outcome.error["code"] == "PROVIDER_ERROR"


@pytest.mark.parametrize(
    ("state", "error", "generation_state", "code"),
    [
        (TaskState.FAILED, None, State.FAILED, "TASK_FAILED"),
        (TaskState.FAILED, GenerationError(ErrorCode.CONTENT_REJECTED, "no"), State.FAILED, "CONTENT_REJECTED"),
        (TaskState.CANCELLED, None, State.CANCELLED, "TASK_CANCELLED"),
    ],
)
def test_an_end_at_the_provider_is_told_with_its_reason(
    state: TaskState, error: GenerationError | None, generation_state: State, code: str
) -> None:
    outcome = after_check(TASK, TaskStatus(state, error=error), PROVIDER, MODEL)
    assert outcome.generation_state is generation_state
    assert outcome.error is not None
    assert outcome.error["code"] == code


def test_a_task_past_its_deadline_times_out_after_a_last_look() -> None:
    late = replace(TASK, age_seconds=601, seconds_left=-1)
    outcome = timed_out(late, None, is_confirmed=False)
    assert outcome.generation_state is State.FAILED
    assert outcome.error is not None
    assert (outcome.error["code"], "600 s" in outcome.error["message"]) == ("TASK_TIMEOUT", True)
    assert "may still finish and bill it" in outcome.error["message"]


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_timeout_says_whether_its_money_is_at_risk(is_confirmed: bool) -> None:
    outcome = timed_out(replace(TASK, seconds_left=-1), None, is_confirmed=is_confirmed)
    assert outcome.is_at_risk is not is_confirmed
    assert outcome.error is not None
    assert outcome.error["details"]["cancelled_at_provider"] is is_confirmed
    assert ("the provider has stopped it" in outcome.error["message"]) is is_confirmed


@pytest.mark.parametrize(
    ("status", "is_confirmed", "cost_usd", "is_at_risk"),
    [
        pytest.param(None, True, None, False, id="the provider confirms it"),
        pytest.param(None, False, None, True, id="nothing is known"),
        pytest.param(TaskStatus(TaskState.PROCESSING), False, None, True, id="it runs on"),
        pytest.param(TaskStatus(TaskState.SUCCESS, outputs=(URL,)), False, 0.04, False, id="it had succeeded"),
        pytest.param(TaskStatus(TaskState.SUCCESS), False, None, True, id="it had succeeded, nobody knows with what"),
        pytest.param(TaskStatus(TaskState.FAILED), False, None, False, id="it had failed"),
        pytest.param(TaskStatus(TaskState.CANCELLED), False, None, False, id="it is cancelled there"),
    ],
)
def test_a_cancel_knows_what_it_costs_as_far_as_the_provider_says(
    status: TaskStatus | None, *, is_confirmed: bool, cost_usd: float | None, is_at_risk: bool
) -> None:
    outcome = cancelled(TASK, status, PROVIDER, MODEL, is_confirmed=is_confirmed)
    assert (outcome.generation_state, outcome.state) == (State.CANCELLED, TaskState.CANCELLED)
    assert (outcome.cost_usd, outcome.is_at_risk, outcome.sources) == (cost_usd, is_at_risk, None)
    assert outcome.error is not None
    is_stopped = is_confirmed or (cost_usd is None and not is_at_risk)
    details = outcome.error["details"]
    assert (outcome.error["code"], details["cancelled_at_provider"]) == ("TASK_CANCELLED", is_stopped)


def test_a_result_that_comes_with_the_last_look_is_taken() -> None:
    late = replace(TASK, seconds_left=-1)
    outcome = after_check(late, TaskStatus(TaskState.SUCCESS, outputs=(URL,)), PROVIDER, MODEL)
    assert outcome.generation_state is State.STORING


@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 408, 409, 410, 418, 422, 429, 500, 501, 502, 503, 504, None]
)
@pytest.mark.parametrize("failures", [0, 10_000])
@pytest.mark.parametrize("code", [ErrorCode.PROVIDER_ERROR, ErrorCode.INVALID_REQUEST, ErrorCode.AUTHENTICATION_FAILED])
def test_no_http_status_ends_a_task(code: ErrorCode, failures: int, status: int | None) -> None:
    error = GenerationError(code, "no", {"http_status": status})
    outcome = after_failed_check(replace(TASK, retry_count=failures), error, MODEL)
    assert (outcome.generation_state, outcome.has_failed) == (None, True)
    assert outcome.error is not None
    assert outcome.error["code"] == code


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_pauses_the_account_unless_another_task_was_let_in_since(status: int) -> None:
    error = GenerationError(ErrorCode.AUTHENTICATION_FAILED, "no", {"http_status": status})
    first = after_failed_check(TASK, error, MODEL)
    assert (first.is_refused, first.delay_seconds) == (True, 30)
    probe = after_failed_check(replace(TASK, was_refused=True, is_paused=True), error, MODEL)
    assert (probe.is_refused, probe.delay_seconds) == (False, 30)
    own = after_failed_check(replace(TASK, was_refused=True), error, MODEL)
    assert (own.is_refused, own.delay_seconds) == (False, 300)


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize(
    ("is_answered", "age_seconds", "is_missing"), [(False, 599, False), (False, 600, True), (True, 1, True)]
)
def test_a_task_is_missing_once_it_was_known_or_ten_minutes_have_passed(
    status: int, *, is_answered: bool, age_seconds: float, is_missing: bool
) -> None:
    task = replace(TASK, is_answered=is_answered, age_seconds=age_seconds)
    outcome = after_failed_check(task, GenerationError(ErrorCode.NOT_FOUND, "no", {"http_status": status}), MODEL)
    assert (outcome.is_missing, outcome.generation_state) == (is_missing, None)
    assert (outcome.delay_seconds == 300) is is_missing


def test_a_missing_task_is_checked_at_its_deadline() -> None:
    error = GenerationError(ErrorCode.NOT_FOUND, "no", {"http_status": 404})
    assert after_failed_check(replace(TASK, is_answered=True, seconds_left=20), error, MODEL).delay_seconds == 20


def test_a_reply_that_cannot_be_read_is_kept() -> None:
    reply = {"http_status": 200, "content_type": "text/html", "size_bytes": 5, "body": "<html"}
    outcome = after_failed_check(TASK, UnreadableReply("it is no JSON", reply), MODEL)
    assert (outcome.generation_state, outcome.unread_reply) == (None, reply)


def test_an_outcome_that_the_database_refuses_is_kept_as_text_until_the_deadline() -> None:
    success = after_check(TASK, TaskStatus(TaskState.SUCCESS, outputs=(URL,)), PROVIDER, MODEL)
    outcome = unwritable(TASK, success, ValueError(), MODEL)
    assert (outcome.generation_state, outcome.has_failed) == (None, True)
    assert outcome.unread_reply is not None
    assert str(URL.url) in outcome.unread_reply["body"]
    last = unwritable(replace(TASK, seconds_left=0), success, ValueError(), MODEL)
    assert (last.generation_state, last.is_at_risk) == (State.FAILED, True)


def test_the_provider_can_ask_for_a_longer_wait_within_the_deadline() -> None:
    slow = GenerationError(ErrorCode.RATE_LIMITED, "slow down", retry_after_seconds=30)
    assert after_failed_check(TASK, slow, MODEL).delay_seconds == 30
    assert after_failed_check(replace(TASK, seconds_left=5), slow, MODEL).delay_seconds == 5


def test_a_provider_that_is_away_until_the_deadline_times_the_task_out() -> None:
    outcome = timed_out(replace(TASK, seconds_left=0), AWAY, is_confirmed=False)
    assert outcome.error is not None
    assert (outcome.error["code"], outcome.error["details"]["last_error"]) == ("TASK_TIMEOUT", "away")
