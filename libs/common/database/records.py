"""What the stores take and give: plain typed values, each named after what it is in the design."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from libs.common.database.states import BreakerState, State, SubmissionState, TaskState

Json = dict[str, Any]
UncertainPolicy = Literal["fail", "resubmit"]
MediaType = Literal["image", "video"]
Strategy = Literal["fixed", "exponential"]


@dataclass(frozen=True, slots=True)
class Fallback:
    """A model to try where an earlier one cannot take the request, with the request's parameters as it knows them."""

    model_identifier: str
    provider_id: str
    parameters: Json
    expected_cost_usd: float


@dataclass(frozen=True, slots=True)
class ImageFrom:
    """An input image that another generation of the same batch makes: whose, and which of its outputs."""

    batch_ref: str
    output: int


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
    api_key_id: str = ""
    owner: str = ""
    expected_cost_usd: float = 0.0
    reserved_usd: float = 0.0
    fallbacks: tuple[Fallback, ...] = ()
    callback_url: str | None = None
    request_hash: str | None = None
    trace_parent: str | None = None
    batch_id: str | None = None
    batch_index: int | None = None
    batch_ref: str | None = None
    images_from: tuple[ImageFrom, ...] = ()
    preprocess: Json | None = None
    experiment_id: str | None = None
    variant_id: str | None = None
    experiment_version: int | None = None
    requested_model_identifier: str | None = None


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
    fallback_path: list[Json]
    next_attempt_at: datetime
    cancel_requested_at: datetime | None
    continues_id: str | None
    created_at: datetime
    updated_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    api_key_id: str
    owner: str
    batch_id: str | None
    batch_index: int | None
    batch_ref: str | None
    experiment_id: str | None
    variant_id: str | None
    requested_model_identifier: str | None
    reused_from_id: str | None
    callback_url: str | None
    progress: int
    polls: int
    continued_by_id: str | None


@dataclass(frozen=True, slots=True)
class ClaimedGeneration:
    """A generation that this process holds a lease on, to submit it.

    `open_submission_id` is set where an earlier holder died between recording an attempt and recording its outcome.
    `may_run_elsewhere` says that an earlier attempt's outcome was never known. `attempts_elsewhere` of the `attempts`
    went to models that were left since. `made_images` are outputs of others of its batch, which follow its
    `input_images`: as rows keep outputs, None for one that is not there. `released_at`: since when it waits.
    `preprocess`: what the caller wants to become of the images.
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
    released_at: datetime
    open_submission_id: str | None = None
    attempts_elsewhere: int = 0
    expected_cost_usd: float = 0.0
    fallbacks: tuple[Fallback, ...] = ()
    may_run_elsewhere: bool = False
    is_cancel_requested: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    trace_parent: str | None = None
    batch_id: str | None = None
    made_images: list[Json | None] | None = None
    preprocess: Json | None = None


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
    `fallback` is the place among the generation's fallbacks, counted from 0, of the model to go on with.
    `claimed_cost_usd` is what the claim set aside of the account's daily spend; it goes back where the provider took
    nothing.
    """

    generation_id: str
    lease_token: int
    state: State
    provider_id: str = ""
    claimed_cost_usd: float = 0.0
    fallback: int | None = None
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

    @property
    def was_taken(self) -> bool:
        """Whether the provider has taken it, or may have."""
        return self.submission_state not in {None, SubmissionState.NOT_ACCEPTED}


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
    is_cancel_requested: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    trace_parent: str | None = None
    batch_id: str | None = None

    @property
    def lease(self) -> tuple[str, str, str, int]:
        """What an outcome of it begins with: whose task it is, for which generation, and the token of the claim."""
        return self.provider_id, self.task_id, self.generation_id, self.lease_token


@dataclass(frozen=True, slots=True)
class PollOutcome:
    """What a check found. `generation_state` is set where the generation moves on with it."""

    provider_id: str
    task_id: str
    generation_id: str
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
    released_at: datetime
    waiting_seconds: float
    labels: dict[str, str] = field(default_factory=dict)
    trace_parent: str | None = None
    batch_id: str | None = None


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


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """What all dispatchers know together of a provider account. Times in Unix seconds by Postgres's clock.

    `tokens` counts as of `tokens_at`; None: the bucket is full. `today` is the date in UTC.
    """

    provider_id: str
    tokens: float
    tokens_at: float | None
    spend_day: str | None
    spend_usd: float
    breaker_state: BreakerState
    breaker_successes: float
    breaker_failures: float
    breaker_counted_at: float | None
    breaker_retry_at: float | None
    breaker_opens: int
    breaker_changed_at: float | None
    now: float
    today: str

    @property
    def spend_today_usd(self) -> float:
        """What was sent today, in US dollars."""
        return self.spend_usd if self.spend_day == self.today else 0.0


@dataclass(frozen=True, slots=True)
class Grant:
    """How many generations a dispatcher may claim for an account now.

    `concurrent_tasks` bounds what all dispatchers have there together, `budget_usd` the expected cost of what is
    claimed; None: no bound. `account` is what the account becomes if something is claimed, before it is charged.
    `is_rate_bound`: but for the rate there would be more places.
    """

    account: AccountRecord
    places: int
    concurrent_tasks: int | None = None
    budget_usd: float | None = None
    is_rate_bound: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """An account that takes nothing now, and why; with a `budget_usd`, nothing that costs more than that."""

    provider_id: str
    code: str
    budget_usd: float | None = None


@dataclass(frozen=True, slots=True)
class SubmissionRecord:
    """An attempt to submit as its row tells it."""

    id: str
    generation_id: str
    attempt: int
    provider_id: str
    model_identifier: str | None
    state: SubmissionState
    provider_task_id: str | None
    provider_request_id: str | None
    http_status: int | None
    error: Json | None
    latency_ms: int | None
    started_at: datetime
    ended_at: datetime | None
    resolution: str | None
    resolution_note: str | None
    resolved_at: datetime | None
