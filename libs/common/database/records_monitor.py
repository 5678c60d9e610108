"""What the monitor's stores take and give: errors, alerts, notices, figures, processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from libs.common.database.records import Json
from libs.common.database.states import AlertSeverity, AlertState, DeliveryState, ErrorLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is kept of an error, whether by itself or as a group's example."""

    level: ErrorLevel
    source: str
    code: str
    message: str
    stack: str
    context: Json
    request_id: str
    generation_id: str
    provider_task_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedError(Fault):
    """One error as a service saw it."""

    id: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class NewError:
    """An error to be kept, with what groups it. `group_id` is taken where it is the first of its kind."""

    fault: LoggedError
    fingerprint: str
    group_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorGroup(Fault):
    """The same fault, seen any number of times, with the most recent one of them."""

    id: str
    count: int
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    resolution_note: str | None
    regressions: int
    regressed_at: datetime | None
    recent_counts: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """Which groups are looked for; empty values look for any."""

    level: str = ""
    source: str = ""
    code: str = ""
    text: str = ""
    include_resolved: bool = False
    id: str = ""


@dataclass(frozen=True, slots=True)
class ErrorFilter:
    """Which single errors are looked for; empty values look for any."""

    group_id: str = ""
    request_id: str = ""
    generation_id: str = ""


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """How often a source saw a code."""

    code: str
    source: str
    count: int


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert as its row has it."""

    id: str
    type: str
    subject: str
    severity: AlertSeverity
    state: AlertState
    message: str
    value: float
    threshold: float
    details: Json
    channels: list[str]
    started_at: datetime
    seen_at: datetime
    notified_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    acknowledge_note: str | None = None
    escalated_at: datetime | None = None
    resolved_at: datetime | None = None
    quiet_because: str | None = None


@dataclass(frozen=True, slots=True)
class SilenceRecord:
    """A time in which alerts are kept and nobody is told."""

    id: str
    type: str
    subject: str
    reason: str
    created_by: str
    created_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A notice to be written. `is_delivered`: it went out while the database was away."""

    id: str
    alert_id: str
    channel: str
    event: str
    delay_seconds: float = 0.0
    is_delivered: bool = False


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A notice to be sent now, with the alert that it tells of."""

    id: str
    channel: str
    event: str
    attempts: int
    lease_token: int
    notification_id: str
    created_at: datetime
    alert: AlertRecord


@dataclass(frozen=True, slots=True)
class DeliveryOutcome:
    """What became of an attempt."""

    id: str
    lease_token: int
    attempt: int
    error: str | None
    delay_seconds: float = 0.0
    is_hopeless: bool = False


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that ended."""

    attempt: int
    error: str | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A notice as its row has it, with its attempts."""

    id: str
    channel: str
    event: str
    state: DeliveryState
    created_at: datetime
    attempts: list[AttemptRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A process of Darkroom."""

    owner: str
    service: str
    version: str
    is_ready: bool
    resident_bytes: int
    cpu_percent: float
    started_at: datetime
    seen_at: datetime


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a process says of itself."""

    owner: str
    service: str
    version: str
    is_ready: bool
    resident_bytes: int
    cpu_percent: float
    age_seconds: float
