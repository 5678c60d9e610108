"""What the stores take and give of providers' tasks and of results: claims, outcomes, late results."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from libs.common.database.records import Json, Lease, MediaType, Strategy
from libs.common.database.states import State, TaskState


@dataclass(frozen=True, slots=True)
class ClaimedTask:
    """A task that this process holds a lease on, to check it. Times are in seconds by Postgres's clock.

    Attributes:
        seconds_left: until the deadline, which stands still while the account's polls are paused.
        is_answered: whether an earlier check was answered with the task's state.
        was_refused: whether the provider refused our credentials at the last check.
        is_paused: whether the account's polls are paused.
        may_call: False where the provider refuses our credentials and this task is not the probe: the provider is not
            called, the task is only cancelled or timed out here.
    """

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
    is_answered: bool = False
    was_refused: bool = False
    is_paused: bool = False
    number_of_outputs: int = 1
    may_call: bool = True

    @property
    def lease(self) -> tuple[str, str, str, int]:
        """What an outcome of it begins with: whose task it is, for which generation, and the token of the claim."""
        return self.provider_id, self.task_id, self.generation_id, self.lease_token

    @property
    def claim(self) -> Lease:
        """The claim that this process holds."""
        return Lease(self.generation_id, self.lease_token)


@dataclass(frozen=True, slots=True)
class PollOutcome:
    """What a check found.

    Attributes:
        generation_state: the generation's next state, where it moves on.
        is_answered: whether the provider answered with the task's state; then the task is not missing.
        ends_pause: whether the provider took our credentials again while the account's polls were paused.
        is_missing: whether the provider is believed to have no such task.
        is_refused: whether the provider refuses our credentials from now on; this pauses the account's polls.
        unread_reply: a reply that could not be read, bounded and without credentials.
        is_at_risk: whether the attempt may be billed although its generation ends without a result.
    """

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
    is_answered: bool = False
    ends_pause: bool = False
    is_missing: bool = False
    is_refused: bool = False
    unread_reply: Json | None = None
    is_at_risk: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether the task will not be polled again."""
        return self.generation_state is not None

    @property
    def is_unbilled(self) -> bool:
        """Whether the provider reports that the task ended without a result, which costs nothing."""
        return self.is_answered and self.generation_state in {State.FAILED, State.CANCELLED} and self.cost_usd is None


@dataclass(frozen=True, slots=True)
class LateTask:
    """A task that has ended here and can be checked again. `age_seconds` counts from its submit."""

    provider_id: str
    task_id: str
    generation_id: str
    model_identifier: str
    request_id: str
    check_url: str | None
    parameters: Json
    media_type: MediaType
    age_seconds: float
    number_of_outputs: int = 1


@dataclass(frozen=True, slots=True)
class ClaimedResult:
    """A generation whose results this process is to store. Times are in seconds by Postgres's clock.

    `task_id`, `check_url`, `task_age_seconds` and `task_seconds_left` (until the task's deadline) describe the
    provider's task; they are None where the provider answered with the outputs themselves. `was_refused`: the provider
    refused our credentials at the last try; `is_paused`: the account's polls are paused, and this result is the probe.
    """

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
    task_id: str | None = None
    check_url: str | None = None
    task_age_seconds: float | None = None
    task_seconds_left: float | None = None
    was_refused: bool = False
    is_paused: bool = False

    @property
    def task(self) -> LateTask | None:
        """The provider's task; None where there is none."""
        if self.task_id is None:
            return None
        age_seconds = self.task_age_seconds or 0.0
        return LateTask(
            self.provider_id, self.task_id, self.id, self.model_identifier, self.request_id, self.check_url, {},
            self.media_type, age_seconds,
        )  # fmt: skip

    @property
    def needs_credentials(self) -> bool:
        """Whether an output is read from the provider's API itself, with the account's credentials."""
        return any(source.get("needs_credentials") for source in self.sources)

    @property
    def claim(self) -> Lease:
        """The claim that this process holds."""
        return Lease(self.id, self.lease_token)


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """What became of a claimed result: SUCCESS, FAILED, or STORING again after `delay_seconds`.

    Attributes:
        sources: where the outputs are to be fetched from next time, with the outputs that are stored already as
            `stored`; None: as before.
        refused_by: the provider account that refused our credentials for the result; this pauses its polls.
        taken_by: the provider account that took our credentials for the result; this ends a pause of its polls.
    """

    generation_id: str
    lease_token: int
    state: State
    outputs: list[Json] | None = None
    error: Json | None = None
    delay_seconds: float = 0.0
    sources: list[Json] | None = None
    refused_by: str | None = None
    taken_by: str | None = None


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
