"""What the stores of the edge take and give: keys, requests with the promises that go with them, callbacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from libs.common.database.records import Json, NewGeneration
from libs.common.database.states import CallbackState, State
from libs.common.errors import GenerationError

Role = Literal["client", "admin"]


@dataclass(frozen=True, slots=True)
class Quota:
    """What a key may use; None: no bound. The budget is in US dollars for a calendar month (UTC)."""

    requests_per_minute: int | None = None
    live_generations: int | None = None
    monthly_budget_usd: float | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether there is any bound."""
        return (self.requests_per_minute, self.live_generations, self.monthly_budget_usd) != (None, None, None)


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key about to become a row."""

    id: str
    prefix: str
    key_hash: bytes
    role: Role
    owner: str
    quota: Quota = field(default_factory=Quota)
    callback_url: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKeyRecord:
    """A key as its row and its usage tell it."""

    id: str
    prefix: str
    key_hash: bytes
    role: Role
    owner: str
    requests_per_minute: int | None
    live_limit: int | None
    monthly_budget_usd: float | None
    callback_url: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    is_valid: bool
    live_generations: int = 0
    reserved_usd: float = 0.0
    spent_usd: float = 0.0
    at_risk_usd: float = 0.0

    @property
    def used_usd(self) -> float:
        """What counts against this month's budget, in US dollars."""
        return self.reserved_usd + self.spent_usd + self.at_risk_usd

    @property
    def quota(self) -> Quota:
        """What it may use."""
        return Quota(self.requests_per_minute, self.live_limit, self.monthly_budget_usd)


@dataclass(frozen=True, slots=True)
class ApiKeyChange:
    """New values of a key. Only those named in `changed` are written; None clears a value."""

    changed: frozenset[str]
    requests_per_minute: int | None = None
    live_generations: int | None = None
    monthly_budget_usd: float | None = None
    callback_url: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """The quota and usage of a key whose usage row is locked.

    Attributes:
        tokens: as of now.
        reserved_usd: what its generations of this month (UTC) hold that have not ended, in US dollars.
        spent_usd: what is known to have been billed this month.
        at_risk_usd: what may have been billed for submissions of this month.
        month_seconds_left: until the month ends.
    """

    api_key_id: str
    quota: Quota
    tokens: float | None
    tokens_age_seconds: float
    live_generations: int
    month_seconds_left: float
    reserved_usd: float = 0.0
    spent_usd: float = 0.0
    at_risk_usd: float = 0.0

    @property
    def used_usd(self) -> float:
        """What counts against the monthly budget, in US dollars."""
        return self.reserved_usd + self.spent_usd + self.at_risk_usd


@dataclass(frozen=True, slots=True)
class Admission:
    """Which of a key's generations are let in, in order: None, or why not. `tokens`: what its bucket holds then."""

    refusals: list[GenerationError | None]
    tokens: float | None


@dataclass(slots=True, weakref_slot=True)
class Leaving:
    """Whether the client of a call has closed its connection, and whether that is recorded. Set by several threads.

    Attributes:
        has_left: whether it has closed its connection.
        is_recorded: whether that is recorded with the generation.
        generation_id: of a call that was accepted, once `has_left` is looked at no more; empty: not yet.
    """

    has_left: bool = False
    is_recorded: bool = False
    generation_id: str = ""


@dataclass(frozen=True, slots=True)
class ClientCall:
    """A call without an idempotency key, from a client that retries automatically.

    Attributes:
        digest: hexadecimal; the same for a call and its repeats.
        retry_count: which repeat it is; 0: the first call; None: its client counts none.
        received: when the gateway received it, in seconds of the gateway's monotonic clock.
        window_seconds: how long after a generation was created a repeat may be one of its call.
        timeout_seconds: how long the client waits for an answer before it repeats a call; 0: not known.
        leaving: whether the client has closed its connection.
        has_waited: whether it has waited for news of an identical call, as `Undecided` asks for.
    """

    digest: str
    retry_count: int | None
    received: float
    window_seconds: float
    timeout_seconds: float = 0.0
    leaving: Leaving = field(default_factory=Leaving, compare=False)
    has_waited: bool = False

    @property
    def count(self) -> int:
        """Which repeat it is for all that is known."""
        return self.retry_count or 0


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A generation to be taken in, with what was asked for beside it.

    `fields` has a digest for each field that was set, by its path: what another body differs in is told by it.
    `is_bounded`: its key has a quota. `client_call`: the call that it came with, where that may be a repeat.
    """

    generation: NewGeneration
    idempotency_key: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    reuse_within_seconds: int = 0
    is_bounded: bool = False
    client_call: ClientCall | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The ticket. `is_repeat`: an earlier request had the same idempotency key, and this is its generation."""

    generation_id: str
    state: State
    reused_from_id: str | None = None
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class CallbackRecord:
    """A callback as its row tells it."""

    id: str
    generation_id: str | None
    batch_id: str | None
    event: str
    url: str
    state: CallbackState
    attempts: int
    last_http_status: int | None
    last_error: str | None
    next_attempt_at: datetime
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClaimedCallback:
    """A callback that this process is to deliver: about a generation, or about a batch with its counters `content`."""

    id: str
    generation_id: str | None
    api_key_id: str
    event: str
    url: str
    attempts: int
    lease_token: int
    created_at: datetime
    request_id: str
    model_identifier: str
    labels: dict[str, str]
    user_id: str | None
    outputs: list[Json] | None
    error: Json | None
    cost_usd: float | None
    trace_parent: str | None = None
    batch_id: str | None = None
    content: Json | None = None
    continues_id: str | None = None


@dataclass(frozen=True, slots=True)
class CallbackOutcome:
    """What became of a try: delivered, or to be tried again after `delay_seconds`, or given up."""

    id: str
    lease_token: int
    is_delivered: bool
    http_status: int | None = None
    error: str | None = None
    delay_seconds: float = 0.0
    is_hopeless: bool = False
