"""The states of all that has any, and the tables of transitions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a generation stands, as its row says."""

    HELD = "HELD"
    PENDING = "PENDING"
    DISPATCHING = "DISPATCHING"
    PROCESSING = "PROCESSING"
    STORING = "STORING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.HELD: frozenset({State.PENDING, State.CANCELLED, State.FAILED}),
        State.PENDING: frozenset({State.DISPATCHING, State.HELD, State.CANCELLED, State.FAILED}),
        State.DISPATCHING: frozenset(
            {State.PENDING, State.PROCESSING, State.STORING, State.SUCCESS, State.FAILED, State.CANCELLED}
        ),
        State.PROCESSING: frozenset({State.STORING, State.SUCCESS, State.FAILED, State.CANCELLED}),
        State.STORING: frozenset({State.SUCCESS, State.FAILED, State.CANCELLED}),
        State.SUCCESS: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELLED: frozenset(),
    }
)

TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
INITIAL = frozenset({State.HELD, State.PENDING, State.PROCESSING, State.SUCCESS})
"""A new row is HELD in a batch, PENDING alone, PROCESSING for a task that another backend submitted itself, and SUCCESS
where it takes the result of an earlier one."""


class IllegalTransition(ValueError):
    """Nothing leads from the one state to the other: a fault of ours, never of a caller."""


def sources(target: State) -> list[str]:
    """The states from which `target` may be reached, for a write's guard.

    IllegalTransition where there is none, so that no statement is built that could never apply.
    """
    found = sorted(state.value for state, following in TRANSITIONS.items() if target in following)
    if not found:
        raise IllegalTransition(f"nothing leads to {target}")
    return found


def check(source: State, target: State) -> None:
    """Raise IllegalTransition unless `target` may follow `source`."""
    if target not in TRANSITIONS[source]:
        raise IllegalTransition(f"{source} → {target}")


class TaskState(StrEnum):
    """Where a task stands at its provider. Adapters map each vendor's words to these."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def has_ended(self) -> bool:
        """Whether the provider will not change it any more."""
        return self in {TaskState.SUCCESS, TaskState.FAILED, TaskState.CANCELLED}


class SubmissionState(StrEnum):
    """What became of one attempt to submit."""

    STARTED = "STARTED"
    """Committed before the request left; if it stays so, the outcome is uncertain."""
    ACCEPTED = "ACCEPTED"
    """The provider took it and named a task."""
    COMPLETED = "COMPLETED"
    """The provider answered with the outputs themselves."""
    NOT_ACCEPTED = "NOT_ACCEPTED"
    """It failed, and the provider provably took nothing."""
    UNCERTAIN = "UNCERTAIN"
    """It left, and nobody knows what became of it."""


class BatchStatus(StrEnum):
    """Where a batch stands: what follows from its counters, and from whether it was cancelled."""

    PROCESSING = "PROCESSING"
    """Some of its generations have not ended."""
    COMPLETED = "COMPLETED"
    """All of them succeeded."""
    PARTIAL_FAILED = "PARTIAL_FAILED"
    """Some succeeded and some did not."""
    FAILED = "FAILED"
    """None succeeded."""
    CANCELLED = "CANCELLED"
    """It was cancelled before all had succeeded."""

    @classmethod
    def of(cls, *, total_tasks: int, completed_tasks: int, ended_tasks: int, is_cancel_requested: bool) -> BatchStatus:
        """The status of a batch with these counters."""
        if ended_tasks < total_tasks:
            return cls.PROCESSING
        if completed_tasks == total_tasks:
            return cls.COMPLETED
        if is_cancel_requested:
            return cls.CANCELLED
        return cls.PARTIAL_FAILED if completed_tasks else cls.FAILED


class BreakerState(StrEnum):
    """Whether submits may pass to a provider account."""

    CLOSED = "CLOSED"
    """All may."""
    OPEN = "OPEN"
    """None may, until a wait is over."""
    HALF_OPEN = "HALF_OPEN"
    """One is out to see whether the provider is back."""


class CallbackState(StrEnum):
    """What became of a callback."""

    PENDING = "PENDING"
    """It waits for its first or its next try."""
    DELIVERED = "DELIVERED"
    """Its receiver answered with 2xx."""
    DEAD = "DEAD"
    """It was given up."""


class ErrorLevel(StrEnum):
    """How bad an error is."""

    WARN = "WARN"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class AlertSeverity(StrEnum):
    """How bad an alert is."""

    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


class AlertState(StrEnum):
    """Where an alert stands."""

    FIRING = "FIRING"
    """Its condition holds and nobody has taken it."""
    ACKNOWLEDGED = "ACKNOWLEDGED"
    """Its condition holds and somebody looks after it."""
    RESOLVED = "RESOLVED"
    """Its condition has cleared. It never changes again: a condition that comes back is another alert."""


ALERT_TRANSITIONS: Mapping[AlertState, frozenset[AlertState]] = MappingProxyType(
    {
        AlertState.FIRING: frozenset({AlertState.ACKNOWLEDGED, AlertState.RESOLVED}),
        AlertState.ACKNOWLEDGED: frozenset({AlertState.RESOLVED}),
        AlertState.RESOLVED: frozenset(),
    }
)


def alert_sources(target: AlertState) -> list[str]:
    """The states from which an alert may reach `target`, for a write's guard."""
    return sorted(state.value for state, following in ALERT_TRANSITIONS.items() if target in following)


class DeliveryState(StrEnum):
    """What became of a notice."""

    PENDING = "PENDING"
    """It waits for its first or its next attempt."""
    DELIVERED = "DELIVERED"
    """Its channel took it."""
    DEAD = "DEAD"
    """It was given up."""


class ExperimentStatus(StrEnum):
    """Where an experiment stands."""

    DRAFT = "DRAFT"
    """Planned; nothing is allocated."""
    RUNNING = "RUNNING"
    """Allocates."""
    PAUSED = "PAUSED"
    """Stopped for a while."""
    COMPLETED = "COMPLETED"
    """Ended. Final."""


EXPERIMENT_TRANSITIONS: Mapping[ExperimentStatus, frozenset[ExperimentStatus]] = MappingProxyType(
    {
        ExperimentStatus.DRAFT: frozenset({ExperimentStatus.RUNNING, ExperimentStatus.COMPLETED}),
        ExperimentStatus.RUNNING: frozenset({ExperimentStatus.PAUSED, ExperimentStatus.COMPLETED}),
        ExperimentStatus.PAUSED: frozenset({ExperimentStatus.RUNNING, ExperimentStatus.COMPLETED}),
        ExperimentStatus.COMPLETED: frozenset(),
    }
)


def experiment_sources(target: ExperimentStatus) -> list[str]:
    """The statuses from which an experiment may reach `target`, for a write's guard."""
    return sorted(status.value for status, following in EXPERIMENT_TRANSITIONS.items() if target in following)


class AllocationMode(StrEnum):
    """How the shares of an experiment's variants come about."""

    FIXED = "FIXED"
    """As planned, until somebody changes them."""
    THOMPSON = "THOMPSON"
    """A variant's share is its chance to be the best."""
    TOP_TWO = "TOP_TWO"
    """Half goes to the best, half to its challengers."""


class MetricRole(StrEnum):
    """What a metric of an experiment is for."""

    PRIMARY = "PRIMARY"
    """Decides."""
    SECONDARY = "SECONDARY"
    """Informs."""
    GUARDRAIL = "GUARDRAIL"
    """Must not get worse."""


class MetricGoal(StrEnum):
    """Which direction of a metric is better."""

    MAXIMIZE = "MAXIMIZE"
    MINIMIZE = "MINIMIZE"
