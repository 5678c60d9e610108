"""What the stores take and give: plain typed values, each named after what it is in the design."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from libs.common.database.states import State, SubmissionState, TaskState

Json = dict[str, Any]
UncertainPolicy = Literal["fail", "resubmit"]
MediaType = Literal["image", "video"]
Strategy = Literal["fixed", "exponential"]


@dataclass(frozen=True, slots=True)
class NewGeneration:
    """A validated request, about to become a row."""

    id: str
    model_identifier: str
    provider_id: str
    media_type: MediaType
    prompt: str
    input_images: list[str]
    number_of_outputs: int
    parameters: Json
    priority: int
    when_uncertain: UncertainPolicy
    user_id: str | None
    labels: dict[str, str]
    request_id: str


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """A generation as its row and its task's row tell it."""

    id: str
    state: State
    model_identifier: str
    provider_id: str
    media_type: MediaType
    prompt: str
    number_of_outputs: int
    parameters: Json
    priority: int
    user_id: str | None
    labels: dict[str, str]
    request_id: str
    attempts: int
    provider_task_id: str | None
    outputs: list[Json] | None
    error: Json | None
    cost_usd: float | None
    created_at: datetime
    updated_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    progress: int
    polls: int


@dataclass(frozen=True, slots=True)
class ClaimedGeneration:
    """A generation that this process holds a lease on, to submit it.

    `open_submission_id` is set where an earlier holder died between recording an attempt and recording its outcome.
    """

    id: str
    model_identifier: str
    provider_id: str
    media_type: MediaType
    prompt: str
    input_images: list[str]
    number_of_outputs: int
    parameters: Json
    when_uncertain: UncertainPolicy
    user_id: str | None
    request_id: str
    attempts: int
    lease_token: int
    created_at: datetime
    open_submission_id: str | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to be recorded before its request leaves."""

    submission_id: str
    generation_id: str
    lease_token: int


@dataclass(frozen=True, slots=True)
class NewTask:
    """The provider's task that a generation is handed over to."""

    task_id: str
    adapter_name: str
    check_url: str | None
    strategy: Strategy
    poll_interval_ms: int
    max_duration_seconds: int


@dataclass(frozen=True, slots=True)
class DispatchOutcome:
    """What became of a claimed generation: its next state, and how its attempt ended.

    `submission_id` is None where nothing was sent. `spool` holds outputs that came as bytes and could not be stored.
    """

    generation_id: str
    lease_token: int
    state: State
    submission_id: str | None = None
    submission_state: SubmissionState | None = None
    task: NewTask | None = None
    sources: list[Json] | None = None
    outputs: list[Json] | None = None
    error: Json | None = None
    cost_usd: float | None = None
    delay_seconds: float = 0.0
    http_status: int | None = None
    provider_request_id: str | None = None
    latency_ms: int | None = None
    spool: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimedTask:
    """A task that this process holds a lease on, to check it. Times are in seconds by Postgres's clock."""

    provider_id: str
    task_id: str
    generation_id: str
    model_identifier: str
    request_id: str
    adapter_name: str
    check_url: str | None
    strategy: Strategy
    poll_interval_ms: int
    attempts: int
    retry_count: int
    parameters: Json
    media_type: MediaType
    lease_token: int
    age_seconds: float
    generation_age_seconds: float
    lateness_seconds: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class PollOutcome:
    """What a check found. `generation_state` is set where the generation moves on with it."""

    provider_id: str
    task_id: str
    lease_token: int
    state: TaskState | None
    progress: int | None = None
    has_failed: bool = False
    delay_seconds: float = 0.0
    error: Json | None = None
    generation_state: State | None = None
    sources: list[Json] | None = None
    outputs: list[Json] | None = None
    cost_usd: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the task will not be polled again."""
        return self.generation_state is not None


@dataclass(frozen=True, slots=True)
class ClaimedResult:
    """A generation whose results this process is to store."""

    id: str
    model_identifier: str
    provider_id: str
    media_type: MediaType
    request_id: str
    sources: list[Json]
    store_attempts: int
    cost_usd: float | None
    lease_token: int
    created_at: datetime
    waiting_seconds: float


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """What became of a claimed result: SUCCESS, FAILED, or STORING again after `delay_seconds`."""

    generation_id: str
    lease_token: int
    state: State
    outputs: list[Json] | None = None
    error: Json | None = None
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PollTaskRecord:
    """A task as its row tells it."""

    provider_id: str
    task_id: str
    generation_id: str
    adapter_name: str
    state: TaskState
    attempts: int
    retry_count: int
    progress: int
    last_error: Json | None
    next_poll_at: datetime
    deadline_at: datetime
    ended_at: datetime | None
    outputs: list[Json] | None


@dataclass(frozen=True, slots=True)
class QueueRecord:
    """What waits for one provider account."""

    provider_id: str
    pending: int
    dispatching: int
    processing: int
    storing: int
    oldest_pending_at: datetime | None
