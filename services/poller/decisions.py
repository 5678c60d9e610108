"""Decides what follows from a check. Each function returns one value and has no side effects.

A read is not a submit: a task whose check failed is checked again until its deadline, whatever the error. Only a
failure that the provider reports in a readable reply ends a task early.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from libs.common.adapters.base import TaskStatus, must_store
from libs.common.adapters.replies import Reply
from libs.common.catalog import Model, Provider
from libs.common.database.records import Json
from libs.common.database.records_tasks import ClaimedTask, LateTask, PollOutcome
from libs.common.database.states import State, TaskState
from libs.common.errors import UNREAD_REPLY_LIMIT, ErrorCode, GenerationError, UnreadableReply
from services.poller.strategies import JITTER, delay_seconds

REFUSED_STATUSES = frozenset({401, 403})
"""HTTP statuses that refuse our credentials."""
MISSING_STATUSES = frozenset({404, 410})
"""HTTP statuses that say there is no such task."""


@dataclass(frozen=True, slots=True)
class Pace:
    """When tasks are checked again that the provider refuses or does not find. All in seconds.

    Attributes:
        refused_seconds: after a check with credentials that the provider refuses.
        missing_seconds: after the provider answered that it has no such task, once that is believed.
        believed_seconds: the time since the submit after which that is believed of a task that was never found.
    """

    refused_seconds: float = 30.0
    missing_seconds: float = 300.0
    believed_seconds: float = 600.0


SHIPPED_PACE = Pace()


@dataclass(frozen=True, slots=True)
class Ready:
    """The generation's next state after a success, with its sources, outputs and cost."""

    state: State
    sources: list[Json] | None
    outputs: list[Json] | None
    cost_usd: float | None


def refuses_credentials(error: GenerationError) -> bool:
    """Whether a failed read says that the provider refuses our credentials, or that they are not set."""
    return error.details.get("http_status") in REFUSED_STATUSES or error.code is ErrorCode.AUTHENTICATION_FAILED


def after_check(task: ClaimedTask, status: TaskStatus, provider: Provider, model: Model | None) -> PollOutcome:
    """What follows from the task's state as the provider reports it.

    Args:
        task: the claimed task.
        status: the provider's report.
        provider: the account.
        model: the catalog's model; None where the catalog has dropped it.
    """
    return replace(_after_status(task, status, provider, model), is_answered=True, ends_pause=task.is_paused)


def with_reply(outcome: PollOutcome, reply: Reply | None) -> PollOutcome:
    """The outcome with the reply that reports success and names no output; any other outcome as it is."""
    if reply is None or not outcome.has_failed:
        return outcome
    return replace(outcome, unread_reply=reply.unreadable("no output is named").reply)


def after_failed_check(
    task: ClaimedTask, error: GenerationError, model: Model | None, pace: Pace = SHIPPED_PACE
) -> PollOutcome:
    """What follows from a check that failed or whose reply could not be read: the task is checked again.

    Args:
        task: the claimed task.
        error: why the check failed; the reply of an `UnreadableReply` is kept.
        model: the catalog's model; None where the catalog has dropped it.
        pace: when a task is checked again that is refused or missing.
    """
    outcome = _again(task, model, error=error)
    if refuses_credentials(error):
        if task.was_refused and not task.is_paused:
            # The provider has accepted our credentials for another task since, so the refusal concerns this task alone.
            return replace(outcome, delay_seconds=_within(task, pace.missing_seconds))
        return replace(outcome, is_refused=not task.is_paused, delay_seconds=_within(task, pace.refused_seconds))
    if error.details.get("http_status") in MISSING_STATUSES:
        if task.is_answered or task.age_seconds >= pace.believed_seconds:
            return replace(outcome, is_missing=True, delay_seconds=_within(task, pace.missing_seconds))
        return outcome
    if isinstance(error, UnreadableReply):
        return replace(outcome, unread_reply=error.reply)
    return outcome


def not_checked(task: ClaimedTask, pace: Pace = SHIPPED_PACE) -> PollOutcome:
    """What follows where the provider may not be called: the task waits."""
    return PollOutcome(*task.lease, state=None, delay_seconds=_within(task, pace.refused_seconds))


def cancelled(
    task: ClaimedTask, status: TaskStatus | None, provider: Provider | None, model: Model | None, *, is_confirmed: bool
) -> PollOutcome:
    """The end of a task whose generation's caller asked for a cancel.

    Args:
        task: the claimed task.
        status: the task's state by a check after the cancel; None: not known.
        provider: the account; None where the catalog has dropped it.
        model: the catalog's model; None where the catalog has dropped it.
        is_confirmed: whether the provider confirms that the task is stopped and will not be billed as finished.
    """
    is_stopped = is_confirmed or (status is not None and status.state in {TaskState.FAILED, TaskState.CANCELLED})
    what = "and the provider has stopped it" if is_stopped else f"but {task.provider_id} may still finish and bill it"
    if not is_stopped and status is not None and status.state is TaskState.SUCCESS:
        what = f"but it had succeeded there already, and {task.provider_id} bills it"
    error = GenerationError(
        ErrorCode.TASK_CANCELLED,
        f"It was cancelled while the provider worked on it, {what}.",
        {"provider_task_id": task.task_id, "cancelled_at_provider": is_stopped},
    )
    ended = _ended(task, TaskState.CANCELLED, State.CANCELLED, error)
    if status is None or provider is None or status.state is not TaskState.SUCCESS:
        return replace(ended, is_at_risk=not is_stopped)
    ready = ready_of(task, status, provider, model)
    return replace(ended, cost_usd=ready.cost_usd, is_at_risk=ready.cost_usd is None)


def timed_out(task: ClaimedTask, cause: GenerationError | None, *, is_confirmed: bool) -> PollOutcome:
    """The end of a task whose last check found no end.

    Args:
        task: the claimed task.
        cause: why the last check failed, if it did.
        is_confirmed: whether the provider confirms that the task is stopped and will not be billed as finished.
    """
    what = "the provider has stopped it" if is_confirmed else f"{task.provider_id} may still finish and bill it"
    error = GenerationError(
        ErrorCode.TASK_TIMEOUT,
        f"The task did not end within {task.age_seconds + task.seconds_left:.0f} s; {what}.",
        {"provider_task_id": task.task_id, "cancelled_at_provider": is_confirmed}
        | ({"last_error": cause.message} if cause else {}),
    )
    return replace(_ended(task, TaskState.FAILED, State.FAILED, error), is_at_risk=not is_confirmed)


def unwritable(task: ClaimedTask, outcome: PollOutcome, cause: Exception, model: Model | None) -> PollOutcome:
    """What follows where the database refuses an outcome: it is kept as text, and the task is checked again.

    Past the deadline the task times out, with its money at risk.
    """
    error = GenerationError(
        ErrorCode.INTERNAL_ERROR, "The provider's answer cannot be kept.", {"cause": type(cause).__name__}
    )
    if task.seconds_left <= 0:
        return timed_out(task, error, is_confirmed=False)
    body = json.dumps(asdict(outcome), default=str)
    kept = {"http_status": None, "content_type": None, "size_bytes": len(body), "body": body[:UNREAD_REPLY_LIMIT]}
    return replace(_again(task, model, error=error), unread_reply=kept)


def ready_of(task: ClaimedTask | LateTask, status: TaskStatus, provider: Provider, model: Model | None) -> Ready:
    """What follows from a reported success. A success without the URL of an output has nothing to store."""
    urls = [output.to_source(task.media_type) for output in status.outputs if output.url]
    cost_usd = status.cost_usd
    if cost_usd is None and model is not None and urls:
        # Further files, such as a mask or a preview, are not billed.
        cost_usd = model.cost_usd(min(len(urls), task.number_of_outputs), task.parameters)
    stored = must_store(status.outputs, upload_to_s3=provider.storage.upload_to_s3)
    state = State.STORING if stored else State.SUCCESS
    return Ready(state, sources=urls if stored else None, outputs=None if stored else urls, cost_usd=cost_usd)


def _after_status(task: ClaimedTask, status: TaskStatus, provider: Provider, model: Model | None) -> PollOutcome:
    if status.state is TaskState.SUCCESS:
        return _succeeded(task, status, provider, model)
    if status.state is TaskState.FAILED:
        error = status.error or GenerationError(ErrorCode.TASK_FAILED, "The provider reports that the task failed.")
        return _ended(task, TaskState.FAILED, State.FAILED, error)
    if status.state is TaskState.CANCELLED:
        error = status.error or GenerationError(ErrorCode.TASK_CANCELLED, "The task was cancelled at the provider.")
        return _ended(task, TaskState.CANCELLED, State.CANCELLED, error)
    return _again(task, model, state=status.state, progress=status.progress)


def _succeeded(task: ClaimedTask, status: TaskStatus, provider: Provider, model: Model | None) -> PollOutcome:
    ready = ready_of(task, status, provider, model)
    if not (ready.sources or ready.outputs):
        # The output exists and is paid for. A later reply may name it.
        return _again(task, model, error=unnamed())
    return PollOutcome(
        *task.lease,
        state=TaskState.SUCCESS,
        progress=100,
        generation_state=ready.state,
        sources=ready.sources,
        outputs=ready.outputs,
        cost_usd=ready.cost_usd,
    )


def unnamed() -> GenerationError:
    """The error of a reply that reports success and names no output."""
    return GenerationError(ErrorCode.PROVIDER_ERROR, "The provider reports success and names no output.")


def _within(task: ClaimedTask, seconds: float) -> float:
    """The wait in seconds, but not past the deadline. The deadline does not advance during a pause."""
    return max(0.1, min(seconds, task.seconds_left))


def _again(
    task: ClaimedTask,
    model: Model | None,
    *,
    state: TaskState | None = None,
    progress: int | None = None,
    error: GenerationError | None = None,
) -> PollOutcome:
    jitter = model.polling.jitter if model is not None else JITTER
    delay = delay_seconds(
        task.strategy, task.poll_interval_ms, task.attempts + 1, seconds_left=task.seconds_left, jitter=jitter
    )
    asked_for = (error.retry_after_seconds if error else None) or 0.0
    return PollOutcome(
        *task.lease,
        state=state,
        progress=progress,
        has_failed=error is not None,
        delay_seconds=max(delay, min(asked_for, task.seconds_left)),
        error=error.to_json() if error else None,
    )


def _ended(task: ClaimedTask, task_state: TaskState, state: State, error: GenerationError) -> PollOutcome:
    return PollOutcome(
        *task.lease,
        state=task_state,
        error=error.to_json(),
        generation_state=state,
    )
