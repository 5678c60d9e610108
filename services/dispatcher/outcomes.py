"""What follows from how a submit went: pure decisions, one value each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from libs.common.adapters.base import Adapter, Submitted
from libs.common.adapters.http import Reply
from libs.common.catalog import Model, Provider
from libs.common.database.records import ClaimedGeneration, DispatchOutcome
from libs.common.database.states import State, SubmissionState
from libs.common.errors import ErrorCode, GenerationError
from libs.common.preprocessing.plans import ImagePlan
from libs.common.retry import wait_seconds

PATIENCE_SECONDS = 600.0
"""So long a generation waits for its model or provider to appear in this process's catalog.

A new catalog does not reach all processes at once: the gateway may know a model that a dispatcher does not know yet.
"""
_LOOK_AGAIN_SECONDS = 5.0
# The account's own reasons, which another account does not share. What the caller got wrong, and what moderation
# refused, goes nowhere else.
_FALLBACK_CODES = {
    ErrorCode.AUTHENTICATION_FAILED,
    ErrorCode.PROVIDER_ERROR,
    ErrorCode.PROVIDER_TIMEOUT,
    ErrorCode.PROVIDER_UNAVAILABLE,
    ErrorCode.QUOTA_EXCEEDED,
    ErrorCode.RATE_LIMITED,
}


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed generation with what the catalog says about it, and the attempt under way if one was recorded.

    `images`: what becomes of its input images; None: they go as they come.
    """

    claimed: ClaimedGeneration
    model: Model
    provider: Provider
    adapter: Adapter
    attempt: int = 0
    submission_id: str | None = None
    latency_ms: int | None = None
    http_status: int | None = None
    provider_request_id: str | None = None
    images: ImagePlan | None = None

    @property
    def attempts_here(self) -> int:
        """How many of the attempts, this one included, went to this model."""
        return self.attempt - self.claimed.attempts_elsewhere

    def after(self, seconds: float, reply: Reply | None = None) -> Job:
        """The job with its attempt's latency, and what the reply says of itself."""
        return replace(
            self,
            latency_ms=round(seconds * 1_000),
            http_status=reply.status if reply else None,
            provider_request_id=reply.request_id if reply else None,
        )


def _outcome(job: Job, state: State, submission_state: SubmissionState, **facts: Any) -> DispatchOutcome:
    return replace(
        _unsent(job.claimed, state, **facts),
        submission_id=job.submission_id,
        submission_state=submission_state,
        latency_ms=job.latency_ms,
        http_status=job.http_status,
        provider_request_id=job.provider_request_id,
    )


def _unsent(claimed: ClaimedGeneration, state: State, **facts: Any) -> DispatchOutcome:
    return DispatchOutcome(
        claimed.id,
        claimed.lease_token,
        state,
        provider_id=claimed.provider_id,
        claimed_cost_usd=claimed.expected_cost_usd,
        **facts,
    )


def _reply_facts(error: GenerationError) -> dict[str, Any]:
    return {
        "http_status": error.details.get("http_status"),
        "provider_request_id": error.details.get("provider_request_id"),
    }


def refused(claimed: ClaimedGeneration, error: GenerationError) -> DispatchOutcome:
    """Nothing was sent, and nothing ever will be: fail, or go on with the next model if the reason is the account's."""
    fallback = _fallback_after(claimed, error)
    if fallback is not None:
        return _unsent(claimed, State.PENDING, error=error.to_json(), fallback=fallback)
    return _unsent(claimed, State.FAILED, error=error.to_json())


def put_back(claimed: ClaimedGeneration) -> DispatchOutcome:
    """Nothing was sent: back to those that wait, or to its end if the row says that somebody cancelled it."""
    return _unsent(claimed, State.PENDING)


def deferred(claimed: ClaimedGeneration, error: GenerationError) -> DispatchOutcome:
    """Nothing was sent, and what is missing may come: look again soon."""
    return _unsent(claimed, State.PENDING, error=error.to_json(), delay_seconds=_LOOK_AGAIN_SECONDS)


def unresolvable(claimed: ClaimedGeneration, cause: GenerationError) -> DispatchOutcome:
    """An attempt was left without an outcome, and the catalog does not let us ask about it any more."""
    return _unsent(
        claimed,
        State.FAILED,
        submission_id=claimed.open_submission_id,
        submission_state=SubmissionState.UNCERTAIN,
        error=_uncertain_error(claimed.provider_id, claimed.open_submission_id, cause, {}).to_json(),
    )


def without_inputs(job: Job, error: GenerationError) -> DispatchOutcome:
    """The input images could not be had, and nothing was sent: try again while that may help, and not for ever."""
    age_seconds = (datetime.now(UTC) - job.claimed.released_at).total_seconds()
    if error.is_retryable and age_seconds < PATIENCE_SECONDS:
        return deferred(job.claimed, error)
    return refused(job.claimed, error)


def accepted(job: Job, answer: Submitted) -> DispatchOutcome:
    """The provider works on it: hand over to the poller."""
    task = job.model.task(answer.task_id, job.adapter.name, answer.check_url)
    webhooks = job.provider.webhooks
    if answer.reports and webhooks is not None:
        # A webhook is to end it; polling goes on at a slower pace, for webhooks are lost.
        task = replace(task, strategy="fixed", poll_interval_ms=round(webhooks.poll_interval_seconds * 1_000))
    return _outcome(job, State.PROCESSING, SubmissionState.ACCEPTED, task=task)


def completed(job: Job, outputs: list[dict[str, Any]], cost_usd: float) -> DispatchOutcome:
    """The outputs are where clients can read them."""
    return _outcome(job, State.SUCCESS, SubmissionState.COMPLETED, outputs=outputs, cost_usd=cost_usd)


def to_be_stored(
    job: Job, sources: list[dict[str, Any]], cost_usd: float, spool: tuple[bytes, ...] = ()
) -> DispatchOutcome:
    """The outputs are made and wait to be stored."""
    return _outcome(job, State.STORING, SubmissionState.COMPLETED, sources=sources, cost_usd=cost_usd, spool=spool)


def unusable(job: Job, error: GenerationError) -> DispatchOutcome:
    """The provider answered with outputs that are none."""
    return _outcome(job, State.FAILED, SubmissionState.COMPLETED, error=error.to_json())


def not_accepted(job: Job, error: GenerationError) -> DispatchOutcome:
    """The provider took nothing: try again later where that may help, then the next model, else fail."""
    if error.is_retryable and job.attempts_here < job.provider.retry.attempts:
        delay = wait_seconds(job.provider.retry, job.attempts_here, at_least_seconds=error.retry_after_seconds)
        return _outcome(job, State.PENDING, SubmissionState.NOT_ACCEPTED, error=error.to_json(), delay_seconds=delay)
    fallback = _fallback_after(job.claimed, error)
    state = State.FAILED if fallback is None else State.PENDING
    return _outcome(job, state, SubmissionState.NOT_ACCEPTED, error=error.to_json(), fallback=fallback)


def not_sent(job: Job, error: GenerationError) -> DispatchOutcome:
    """Whether the attempt was recorded is unknown, but nothing was sent: another attempt costs nothing."""
    return _outcome(job, State.PENDING, SubmissionState.NOT_ACCEPTED, error=error.to_json(), delay_seconds=1.0)


def uncertain(job: Job, cause: GenerationError) -> DispatchOutcome:
    """Nobody can tell whether the provider took it: repeat only where that is free or was asked for, else fail."""
    repeat = job.adapter.idempotent_submit or job.claimed.when_uncertain == "resubmit"
    if repeat and job.attempts_here < job.provider.retry.attempts:
        delay = wait_seconds(job.provider.retry, job.attempts_here, at_least_seconds=cause.retry_after_seconds)
        return _outcome(job, State.PENDING, SubmissionState.UNCERTAIN, error=cause.to_json(), delay_seconds=delay)
    error = _uncertain_error(job.provider.id, job.submission_id, cause, _reply_facts(cause))
    return _outcome(job, State.FAILED, SubmissionState.UNCERTAIN, error=error.to_json())


def _uncertain_error(
    provider_id: str, submission_id: str | None, cause: GenerationError, facts: dict[str, Any]
) -> GenerationError:
    return GenerationError(
        ErrorCode.SUBMISSION_UNCERTAIN,
        f"The request was sent to {provider_id} and its reply was lost, so it may have been accepted and billed. "
        "It was not sent again. Look it up in the provider's own list by the time and the prompt, and say what you "
        "found with ResolveSubmission.",
        {
            "provider": provider_id,
            "submission_id": submission_id,
            "cause": cause.code.value,
            "cause_message": cause.message,
            **{key: value for key, value in facts.items() if value is not None},
        },
    )


def _fallback_after(claimed: ClaimedGeneration, error: GenerationError) -> int | None:
    """The first fallback at another account. None where the reason is not the account's, or a task may be running."""
    if claimed.may_run_elsewhere or error.code not in _FALLBACK_CODES:
        return None
    return next(
        (number for number, fallback in enumerate(claimed.fallbacks) if fallback.provider_id != claimed.provider_id),
        None,
    )
