"""What the stores take and give of submits: claims, attempts, outcomes, accounts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from libs.common.database.records import (
    Fallback,
    ImageFrom,
    Json,
    Lease,
    MadeImage,
    MediaType,
    Strategy,
    UncertainPolicy,
)
from libs.common.database.states import BreakerState, State, SubmissionState


@dataclass(frozen=True, slots=True)
class ClaimedGeneration:
    """A generation that this process holds a lease on, to submit it.

    `open_submission_id` is set where an earlier holder died between recording an attempt and recording its outcome;
    `open_submission_age_seconds` is the time since that attempt was recorded, by Postgres's clock.
    `may_run_elsewhere` says that an earlier attempt's outcome was never known. `attempts_elsewhere` of the `attempts`
    went to models that were left since. `images_from` are the images declared beside `input_images`, and `made_images`
    the outputs of others of its batch found for them, one for each, in their order. `released_at`: since when it waits.
    `preprocess`: what the caller wants to become of the images. `owner`: of the API key that created it.
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
    images_from: tuple[ImageFrom, ...] = ()
    made_images: tuple[MadeImage, ...] = ()
    preprocess: Json | None = None
    open_submission_age_seconds: float | None = None
    owner: str = ""

    @property
    def claim(self) -> Lease:
        """The claim that this process holds."""
        return Lease(self.id, self.lease_token)


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

    `submission_id` is None where nothing was sent. `spool` holds outputs that came as bytes and could not be stored;
    `reply` is the provider's reply, or what a row keeps of one, where it could not be read in full.
    `fallback` is the place among the generation's fallbacks, counted from 0, of the model to go on with.
    `claimed_cost_usd` is what the claim set aside of the account's daily spend; it goes back where the provider took
    nothing. `is_same_id`: an uncertain attempt is repeated under the id that the provider bills once, so that the
    reservation of the generation holds its money and nothing is at risk yet.
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
    is_same_id: bool = False
    reply: Json | None = None

    @property
    def has_result(self) -> bool:
        """Whether the outcome names the provider's task, or has outputs: nothing else does before it is written."""
        return self.task is not None or bool(self.sources or self.outputs)

    @property
    def was_taken(self) -> bool:
        """Whether the provider has taken it, or may have."""
        return self.submission_state not in {None, SubmissionState.NOT_ACCEPTED}


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
    expected_cost_usd: float
    at_risk_usd: float
    spent_usd: float
    billing: str | None
    billing_at: datetime | None
    reply: Json | None = None
