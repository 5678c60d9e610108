"""What follows from a check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from libs.common.adapters.base import ProviderOutput, TaskStatus
from libs.common.catalog import StoragePolicy
from libs.common.database.records import ClaimedTask
from libs.common.database.states import State, TaskState
from libs.common.errors import ErrorCode, GenerationError
from services.poller.decisions import HOPELESS_CHECKS, after_check, after_failed_check, cancelled, timed_out
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
REFUSED = GenerationError(ErrorCode.AUTHENTICATION_FAILED, "no")


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


def test_success_without_an_output_is_the_providers_fault() -> None:
    outcome = after_check(TASK, TaskStatus(TaskState.SUCCESS), PROVIDER, MODEL)
    assert outcome.generation_state is State.FAILED
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
    outcome = timed_out(late, None, was_told=False)
    assert outcome.generation_state is State.FAILED
    assert outcome.error is not None
    assert (outcome.error["code"], "600 s" in outcome.error["message"]) == ("TASK_TIMEOUT", True)
    assert "may still finish and bill it" in outcome.error["message"]


def test_a_time_out_says_whether_the_provider_was_told_to_stop() -> None:
    outcome = timed_out(replace(TASK, seconds_left=-1), None, was_told=True)
    assert outcome.error is not None
    assert outcome.error["details"]["cancelled_at_provider"] is True
    assert "told to stop" in outcome.error["message"]


@pytest.mark.parametrize("was_told", [True, False])
def test_a_cancel_ends_the_task_and_says_whether_the_provider_knows(was_told: bool) -> None:
    outcome = cancelled(TASK, was_told=was_told)
    assert (outcome.generation_state, outcome.state) == (State.CANCELLED, TaskState.CANCELLED)
    assert outcome.error is not None
    assert (outcome.error["code"], outcome.error["details"]["cancelled_at_provider"]) == ("TASK_CANCELLED", was_told)


def test_a_result_that_comes_with_the_last_look_is_taken() -> None:
    late = replace(TASK, seconds_left=-1)
    outcome = after_check(late, TaskStatus(TaskState.SUCCESS, outputs=(URL,)), PROVIDER, MODEL)
    assert outcome.generation_state is State.STORING


@pytest.mark.parametrize(("error", "failures"), [(AWAY, 10_000), (REFUSED, HOPELESS_CHECKS - 2)])
def test_a_failed_check_is_repeated(error: GenerationError, failures: int) -> None:
    outcome = after_failed_check(replace(TASK, retry_count=failures), error, MODEL)
    assert (outcome.generation_state, outcome.has_failed) == (None, True)
    assert outcome.error is not None
    assert outcome.error["code"] == error.code


def test_refusals_without_end_fail_the_generation() -> None:
    outcome = after_failed_check(replace(TASK, retry_count=HOPELESS_CHECKS - 1), REFUSED, MODEL)
    assert outcome.generation_state is State.FAILED


def test_the_provider_can_ask_for_a_longer_wait_within_the_deadline() -> None:
    slow = GenerationError(ErrorCode.RATE_LIMITED, "slow down", retry_after_seconds=30)
    assert after_failed_check(TASK, slow, MODEL).delay_seconds == 30
    assert after_failed_check(replace(TASK, seconds_left=5), slow, MODEL).delay_seconds == 5


def test_a_provider_that_is_away_until_the_deadline_times_the_task_out() -> None:
    outcome = timed_out(replace(TASK, seconds_left=0), AWAY, was_told=False)
    assert outcome.error is not None
    assert (outcome.error["code"], outcome.error["details"]["last_error"]) == ("TASK_TIMEOUT", "away")
