"""What the stores of batches take and give."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from libs.common.database.records import Json, NewGeneration
from libs.common.database.states import BatchStatus


@dataclass(frozen=True, slots=True)
class Estimated:
    """What something is expected to cost, in US dollars, and to take, in seconds."""

    low_usd: float = 0.0
    expected_usd: float = 0.0
    high_usd: float = 0.0
    expected_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """How a batch is run. `priority` and `budget_usd` as they were given, if they were."""

    is_parallel: bool = True
    max_concurrency: int = 3
    stop_on_error: bool = False
    priority: int | None = None
    budget_usd: float | None = None
    callback_url: str | None = None
    callback_every_tasks: int | None = None
    callback_every_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch about to be opened, whose requests were all found good. `request_digest` goes with `idempotency_key`."""

    id: str
    owner: str
    api_key_id: str
    request_id: str
    total_tasks: int
    options: BatchOptions
    estimate: Estimated
    reserved_usd: float
    is_bounded: bool
    idempotency_key: str | None = None
    request_digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request of a batch as it is kept until the batch opens."""

    generation: NewGeneration
    reuse_within_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Dependency:
    """One place of a batch that waits for another. `is_required`: it is skipped if that does not succeed."""

    batch_index: int
    needs_index: int
    is_required: bool


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as its row and the lines of its ledger tell it."""

    id: str
    owner: str
    api_key_id: str
    request_id: str
    total_tasks: int
    is_parallel: bool
    max_concurrency: int
    stop_on_error: bool
    priority: int | None
    budget_usd: float | None
    callback_url: str | None
    callback_every_tasks: int | None
    callback_every_seconds: float | None
    estimated_low_usd: float
    estimated_usd: float
    estimated_high_usd: float
    estimated_seconds: float
    completed_tasks: int
    failed_tasks: int
    cancelled_tasks: int
    skipped_tasks: int
    cost_usd: float
    stopped_at: datetime | None
    cancel_requested_at: datetime | None
    created_at: datetime
    ended_at: datetime | None
    now: datetime

    @property
    def ended_tasks(self) -> int:
        """How many of its generations have ended."""
        return self.completed_tasks + self.failed_tasks + self.cancelled_tasks + self.skipped_tasks

    @property
    def status(self) -> BatchStatus:
        """Where it stands."""
        return BatchStatus.of(
            total_tasks=self.total_tasks,
            completed_tasks=self.completed_tasks,
            ended_tasks=self.ended_tasks,
            is_cancel_requested=self.cancel_requested_at is not None,
        )


@dataclass(frozen=True, slots=True)
class Opened:
    """The ticket of a batch. `is_repeat`: an earlier one had the same idempotency key, and this is it."""

    batch: BatchRecord
    is_repeat: bool = False


@dataclass(frozen=True, slots=True)
class EndedInBatch:
    """A generation that looking after its batch has ended: skipped, or cancelled before it had begun."""

    id: str
    batch_id: str
    model_identifier: str
    provider_id: str
    code: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchTurn:
    """What one look after all batches came to. `has_more`: another should follow at once.

    `cancelling` are at work at a dispatcher, which is to be told.
    """

    folded: int = 0
    released: int = 0
    made_way: int = 0
    ended: list[EndedInBatch] = field(default_factory=list)
    cancelling: list[str] = field(default_factory=list)
    closed: list[Json] = field(default_factory=list)
    has_more: bool = False
