"""Decides what follows from a submit. Each function returns one outcome and has no side effects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from libs.common.adapters.base import Adapter, Submitted
from libs.common.adapters.http import Reply
from libs.common.catalog import Model, Provider
from libs.common.database.records_dispatch import ClaimedGeneration, DispatchOutcome
from libs.common.database.states import State, SubmissionState
from libs.common.errors import Details, ErrorCode, GenerationError, UnreadableReply
from libs.common.preprocessing.plans import ImagePlan
from libs.common.retry import wait_seconds

PATIENCE_SECONDS = 600.0
"""How long a generation waits for its model or provider to appear in this process's catalog.

Processes load a new catalog at different times: the gateway may know a model that a dispatcher does not know yet.
"""
_LOOK_AGAIN_SECONDS = 5.0
# Errors that another account does not share. Invalid requests and rejected content do not fall back.
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
    """A claimed generation with its model, provider and adapter, and with the current attempt if one was recorded.

    `images`: how its input images are prepared. None: they are sent unchanged. `reply`: to the current attempt.
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
    reply: Reply | None = None

    @property
    def attempts_here(self) -> int:
        """How many of the attempts, this one included, went to this model."""
        return self.attempt - self.claimed.attempts_elsewhere

    def after(self, seconds: float, reply: Reply | None = None) -> Job:
        """The job with the latency of its attempt, and the status and id of the reply."""
        return replace(
            self,
            latency_ms=round(seconds * 1_000),
            http_status=reply.status if reply else None,
            provider_request_id=reply.request_id if reply else None,
            reply=reply,
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
    """Nothing was sent, and a repeat does not help: fail, or fall back if the account is the reason."""
    fallback = _fallback_after(claimed, error)
    if fallback is not None:
        return _unsent(claimed, State.PENDING, error=error.to_json(), fallback=fallback)
    return _unsent(claimed, State.FAILED, error=error.to_json())


def put_back(claimed: ClaimedGeneration) -> DispatchOutcome:
    """Nothing was sent: the generation is PENDING again, or CANCELLED if the row says that it was cancelled."""
    return _unsent(claimed, State.PENDING)


def deferred(claimed: ClaimedGeneration, error: GenerationError) -> DispatchOutcome:
    """Nothing was sent, and what is missing may appear: try again soon."""
    return _unsent(claimed, State.PENDING, error=error.to_json(), delay_seconds=_LOOK_AGAIN_SECONDS)


def unresolvable(claimed: ClaimedGeneration, cause: GenerationError) -> DispatchOutcome:
    """An attempt has no outcome, and the catalog has no longer what a lookup needs."""
    return _unsent(
        claimed,
        State.FAILED,
        submission_id=claimed.open_submission_id,
        submission_state=SubmissionState.UNCERTAIN,
        error=_uncertain_error(claimed.provider_id, claimed.open_submission_id, cause, {}).to_json(),
    )


def without_inputs(job: Job, error: GenerationError) -> DispatchOutcome:
    """The input images are not available, and nothing was sent: try again while that may help, for a limited time."""
    age_seconds = (datetime.now(UTC) - job.claimed.released_at).total_seconds()
    if error.is_retryable and age_seconds < PATIENCE_SECONDS:
        return deferred(job.claimed, error)
    return refused(job.claimed, error)


def accepted(job: Job, answer: Submitted) -> DispatchOutcome:
    """The provider accepted the request: the poller takes over."""
    task = job.model.task(answer.task_id, job.adapter.name, answer.check_url)
    webhooks = job.provider.webhooks
    if answer.reports and webhooks is not None:
        # A webhook reports the end. The task is polled more slowly all the same, since webhooks can be lost.
        task = replace(task, strategy="fixed", poll_interval_ms=round(webhooks.poll_interval_seconds * 1_000))
    return _outcome(job, State.PROCESSING, SubmissionState.ACCEPTED, task=task)


def without_facts(outcome: DispatchOutcome) -> DispatchOutcome:
    """The outcome without what the vendor says beside the result: the reply, the id of the call, details of errors."""
    error = None if outcome.error is None else outcome.error | {"details": {}}
    return replace(outcome, reply=None, provider_request_id=None, error=error)


def unwritable(outcome: DispatchOutcome, fault: GenerationError) -> DispatchOutcome:
    """The end of a generation whose outcome the database refuses. An accepted request may be billed."""
    was_taken = outcome.submission_state in {SubmissionState.ACCEPTED, SubmissionState.COMPLETED}
    return replace(
        outcome,
        state=State.FAILED,
        submission_state=SubmissionState.UNCERTAIN if was_taken else outcome.submission_state,
        task=None,
        sources=None,
        outputs=None,
        cost_usd=None,
        error=fault.to_json(),
    )


def completed(job: Job, outputs: list[dict[str, Any]], cost_usd: float, kept: Details | None = None) -> DispatchOutcome:
    """Clients can read the outputs at their URLs. `kept`: the reply, if a part of it could not be read."""
    return _outcome(job, State.SUCCESS, SubmissionState.COMPLETED, outputs=outputs, cost_usd=cost_usd, reply=kept)


def to_be_stored(
    job: Job,
    sources: list[dict[str, Any]],
    cost_usd: float,
    spool: tuple[bytes, ...] = (),
    kept: Details | None = None,
) -> DispatchOutcome:
    """The outputs wait to be stored. `kept`: the reply, if a part of it could not be read."""
    return _outcome(
        job, State.STORING, SubmissionState.COMPLETED, sources=sources, cost_usd=cost_usd, spool=spool, reply=kept
    )


def unusable(job: Job, why: str, kept: Details | None) -> DispatchOutcome:
    """The provider answered with outputs that are no media, and may have billed them: the request is not sent again.

    Args:
        job: the submit.
        why: what is wrong with the outputs, as a sentence.
        kept: the reply for the row.
    """
    error = _unread_error(job, f'it has no output that can be used ("{why}")', kept or {}, {})
    return _outcome(job, State.FAILED, SubmissionState.UNCERTAIN, error=error.to_json(), reply=kept)


def not_accepted(job: Job, error: GenerationError) -> DispatchOutcome:
    """The provider did not accept the request: try again later if that may help, then fall back, otherwise fail."""
    if error.is_retryable and job.attempts_here < job.provider.retry.attempts:
        delay = wait_seconds(job.provider.retry, job.attempts_here, at_least_seconds=error.retry_after_seconds)
        return _outcome(job, State.PENDING, SubmissionState.NOT_ACCEPTED, error=error.to_json(), delay_seconds=delay)
    fallback = _fallback_after(job.claimed, error)
    state = State.FAILED if fallback is None else State.PENDING
    return _outcome(job, state, SubmissionState.NOT_ACCEPTED, error=error.to_json(), fallback=fallback)


def not_sent(job: Job, error: GenerationError) -> DispatchOutcome:
    """The attempt may be recorded, but its request was provably not sent: another attempt costs nothing."""
    return _outcome(job, State.PENDING, SubmissionState.NOT_ACCEPTED, error=error.to_json(), delay_seconds=1.0)


def uncertain(job: Job, cause: GenerationError) -> DispatchOutcome:
    """The provider may have accepted the request: repeat only if that is free or requested, otherwise fail."""
    unread = cause if isinstance(cause, UnreadableReply) else None
    kept = unread.reply if unread is not None else job.reply.kept() if job.reply is not None else None
    repeat = job.adapter.idempotent_submit or job.claimed.when_uncertain == "resubmit"
    if repeat and job.attempts_here < job.provider.retry.attempts:
        delay = wait_seconds(job.provider.retry, job.attempts_here, at_least_seconds=cause.retry_after_seconds)
        facts = {"delay_seconds": delay, "is_same_id": job.adapter.idempotent_submit, "reply": kept}
        return _outcome(job, State.PENDING, SubmissionState.UNCERTAIN, error=cause.to_json(), **facts)
    error = (
        _uncertain_error(job.provider.id, job.submission_id, cause, _reply_facts(cause), status=job.http_status)
        if unread is None
        else _unread_error(job, unread.why, unread.reply, _reply_facts(cause))
    )
    return _outcome(job, State.FAILED, SubmissionState.UNCERTAIN, error=error.to_json(), reply=kept)


def with_failed_lookup(outcome: DispatchOutcome, failure: GenerationError) -> DispatchOutcome:
    """The outcome of an uncertain submission, with the error of the last lookup that failed in its error's details."""
    if outcome.error is None:
        return outcome
    details = outcome.error["details"] | {"lookup_error": f"{failure.code}: {failure.message}"}
    return replace(outcome, error=outcome.error | {"details": details})


def _unread_error(job: Job, why: str, kept: Details, facts: dict[str, Any]) -> GenerationError:
    """The error of a submit whose reply was kept and cannot be read. `why`: a clause without a full stop."""
    status = kept.get("http_status") or job.http_status
    return GenerationError(
        ErrorCode.PROVIDER_ERROR,
        f"{job.provider.id} answered {status} and its reply cannot be read: {why}; it may have billed the request; the "
        "reply is kept with the submission. It was not sent again. Look at the reply (ListSubmissions shows it) and in "
        "the provider's own list, and say what you found with ResolveSubmission.",
        {
            "provider": job.provider.id,
            "submission_id": job.submission_id,
            **{key: value for key, value in facts.items() if value is not None},
        },
        is_retryable=False,
    )


def _uncertain_error(
    provider_id: str,
    submission_id: str | None,
    cause: GenerationError,
    facts: dict[str, Any],
    *,
    status: int | None = None,
) -> GenerationError:
    answered = f"it answered {status}, which does not say what it did"
    if status is None:
        is_no_http = cause.details.get("is_no_http")
        answered = "its reply cannot be read, for it is not valid HTTP" if is_no_http else "its reply was lost"
    return GenerationError(
        ErrorCode.SUBMISSION_UNCERTAIN,
        f"The request was sent to {provider_id} and {answered}, so it may have been accepted and billed. "
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
    """The first fallback at another account. None if the account is not the reason, or if a task may be running."""
    if claimed.may_run_elsewhere or error.code not in _FALLBACK_CODES:
        return None
    return next(
        (number for number, fallback in enumerate(claimed.fallbacks) if fallback.provider_id != claimed.provider_id),
        None,
    )
