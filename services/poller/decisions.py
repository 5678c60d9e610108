"""What follows from a check: pure decisions, one value each."""

from __future__ import annotations

from libs.common.adapters.base import TaskStatus
from libs.common.catalog import Model, Provider
from libs.common.database.records import ClaimedTask, PollOutcome
from libs.common.database.states import State, TaskState
from libs.common.errors import ErrorCode, GenerationError
from services.poller.strategies import JITTER, delay_seconds

HOPELESS_CHECKS = 10
"""So many refused checks in a row end a task: the provider knows nothing of it, or does not let us in."""


def after_check(task: ClaimedTask, status: TaskStatus, provider: Provider, model: Model | None) -> PollOutcome:
    """The provider has said where the task stands. `model` is None where the catalog has dropped it since."""
    if status.state is TaskState.SUCCESS:
        return _succeeded(task, status, provider, model)
    if status.state is TaskState.FAILED:
        error = status.error or GenerationError(ErrorCode.TASK_FAILED, "The provider reports that the task failed.")
        return _ended(task, TaskState.FAILED, State.FAILED, error)
    if status.state is TaskState.CANCELLED:
        error = status.error or GenerationError(ErrorCode.TASK_CANCELLED, "The task was cancelled at the provider.")
        return _ended(task, TaskState.CANCELLED, State.CANCELLED, error)
    return _again(task, model, state=status.state, progress=status.progress)


def after_failed_check(task: ClaimedTask, error: GenerationError, model: Model | None) -> PollOutcome:
    """The provider could not be asked, or its answer could not be read. Asking again is always safe."""
    if not error.is_retryable and task.retry_count + 1 >= HOPELESS_CHECKS:
        return _ended(task, TaskState.FAILED, State.FAILED, error)
    return _again(task, model, error=error)


def cancelled(task: ClaimedTask, *, was_told: bool) -> PollOutcome:
    """Somebody asked for the generation to be cancelled. `was_told`: the provider has taken the cancel."""
    told = "and the provider was told to stop" if was_told else f"but {task.provider_id} may still finish and bill it"
    error = GenerationError(
        ErrorCode.TASK_CANCELLED,
        f"It was cancelled while the provider worked on it, {told}.",
        {"provider_task_id": task.task_id, "cancelled_at_provider": was_told},
    )
    return _ended(task, TaskState.CANCELLED, State.CANCELLED, error)


def timed_out(task: ClaimedTask, cause: GenerationError | None, *, was_told: bool) -> PollOutcome:
    """The last look found no end. `was_told`: the provider has taken the cancel."""
    told = "the provider was told to stop" if was_told else f"{task.provider_id} may still finish and bill it"
    error = GenerationError(
        ErrorCode.TASK_TIMEOUT,
        f"The task did not end within {task.age_seconds + task.seconds_left:.0f} s; {told}.",
        {"provider_task_id": task.task_id, "cancelled_at_provider": was_told}
        | ({"last_error": cause.message} if cause else {}),
    )
    return _ended(task, TaskState.FAILED, State.FAILED, error)


def unwritable(task: ClaimedTask, cause: Exception) -> PollOutcome:
    """The database refuses what the provider said: that must neither be lost silently nor asked for without end."""
    error = GenerationError(
        ErrorCode.INTERNAL_ERROR, "The provider's answer cannot be kept.", {"cause": type(cause).__name__}
    )
    return _ended(task, TaskState.FAILED, State.FAILED, error)


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


def _succeeded(task: ClaimedTask, status: TaskStatus, provider: Provider, model: Model | None) -> PollOutcome:
    urls = [output.to_source(task.media_type) for output in status.outputs if output.url]
    if not urls:
        error = GenerationError(ErrorCode.PROVIDER_ERROR, "The provider reports success and names no output.")
        return _ended(task, TaskState.FAILED, State.FAILED, error)
    cost_usd = status.cost_usd
    if cost_usd is None and model is not None:
        cost_usd = model.cost_usd(len(urls), task.parameters)
    # A client could not read what answers to the account's key alone.
    stored = provider.storage.upload_to_s3 or any(output.needs_credentials for output in status.outputs)
    return PollOutcome(
        *task.lease,
        state=TaskState.SUCCESS,
        progress=100,
        generation_state=State.STORING if stored else State.SUCCESS,
        sources=urls if stored else None,
        outputs=None if stored else urls,
        cost_usd=cost_usd,
    )
