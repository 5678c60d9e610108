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

    @property
    def quota(self) -> Quota:
        """What it may use."""
        return Quota(self.requests_per_minute, self.live_limit, self.monthly_budget_usd)


@dataclass(frozen=True, slots=True)
class ApiKeyChange:
    """What becomes of a key. None: as it is; an empty `callback_url`: none any more."""

    quota: Quota | None = None
    callback_url: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """What a key may use and has used, while its row is held. `tokens` as of now; seconds until the month ends."""

    api_key_id: str
    quota: Quota
    tokens: float | None
    tokens_age_seconds: float
    live_generations: int
    used_usd: float
    month_seconds_left: float


@dataclass(frozen=True, slots=True)
class Admission:
    """Which of a key's generations are let in, in order: None, or why not. `tokens`: what its bucket holds then."""

    refusals: list[GenerationError | None]
    tokens: float | None


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A generation to be taken in, with what was asked for beside it.

    `fields` has a digest for each field that was set, by its path: what another body differs in is told by it.
    `is_bounded`: its key has a quota.
    """

    generation: NewGeneration
    idempotency_key: str | None = None
    fields: dict[str, str] = field(default_factory=dict)
    reuse_within_seconds: int = 0
    is_bounded: bool = False


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
