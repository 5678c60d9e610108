"""The words of enums as people read them, and the shape that goes with each: a state is never told by colour alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from darkroom.common.v1 import common_pb2
from darkroom.experiments.v1 import experiments_pb2
from darkroom.gateway.v1 import gateway_pb2
from darkroom.monitor.v1 import monitor_pb2

from services.gateway.console.translations import gettext as _
from services.gateway.console.translations import marked

SEVERITY, ALERT_STATE = monitor_pb2.AlertSeverity, monitor_pb2.AlertState
LEVEL, COMPONENT_STATUS, DELIVERY_STATE = monitor_pb2.ErrorLevel, monitor_pb2.ComponentStatus, monitor_pb2.DeliveryState
EXPERIMENT_STATUS, MODE = experiments_pb2.ExperimentStatus, experiments_pb2.AllocationMode
# For how long alerts may be kept quiet.
SILENCE_HOURS = (1, 4, 24, 168)
SUBMISSION_STATE, SUBMISSION_RESOLUTION = gateway_pb2.SubmissionState, gateway_pb2.SubmissionResolution
ROLE, GOAL = experiments_pb2.MetricRole, experiments_pb2.MetricGoal


@dataclass(frozen=True, slots=True)
class Word:
    """A state: its text, its tone (good, bad, warn, busy, calm), and the shape beside it."""

    text: str
    tone: str
    shape: str


_WORDS: dict[str, tuple[str, str, str]] = {
    "HELD": (marked("held"), "calm", "‖"),
    "PENDING": (marked("pending"), "calm", "○"),
    "DISPATCHING": (marked("dispatching"), "busy", "◔"),
    "PROCESSING": (marked("processing"), "busy", "◑"),
    "STORING": (marked("storing"), "busy", "◕"),
    "SUCCESS": (marked("success"), "good", "✓"),
    "FAILED": (marked("failed"), "bad", "✕"),
    "CANCELLED": (marked("cancelled"), "calm", "⊘"),
    "COMPLETED": (marked("completed"), "good", "✓"),
    "PARTIAL_FAILED": (marked("partly failed"), "warn", "◩"),
    "STARTED": (marked("under way"), "busy", "◔"),
    "ACCEPTED": (marked("accepted"), "good", "✓"),
    "NOT_ACCEPTED": (marked("not accepted"), "warn", "↺"),
    "UNCERTAIN": (marked("uncertain"), "bad", "?"),
    "ATTACHED": (marked("attached to its task"), "good", "✓"),
    "RESUBMITTED": (marked("submitted again"), "good", "✓"),
    "DISMISSED": (marked("dismissed"), "calm", "⊘"),
    "BILLED": (marked("billed"), "warn", "●"),
    "NOT_BILLED": (marked("not billed"), "good", "✓"),
    "COUNTED": (marked("counted as spent"), "warn", "▲"),
    "CONTINUED": (marked("cost of its continuation"), "calm", "→"),
    "DELIVERED": (marked("delivered"), "good", "✓"),
    "DEAD": (marked("given up"), "bad", "✕"),
    "UP": (marked("up"), "good", "✓"),
    "DEGRADED": (marked("degraded"), "warn", "▲"),
    "DOWN": (marked("down"), "bad", "✕"),
    "CLOSED": (marked("circuit closed"), "good", "✓"),
    "OPEN": (marked("circuit open"), "bad", "✕"),
    "HALF_OPEN": (marked("circuit half open"), "warn", "◑"),
    "WARN": (marked("warning"), "warn", "▲"),
    "ERROR": (marked("error"), "bad", "✕"),
    "INFO": (marked("info"), "calm", "i"),
    "WARNING": (marked("warning"), "warn", "▲"),
    "CRITICAL": (marked("critical"), "bad", "‼"),
    "FIRING": (marked("firing"), "bad", "●"),
    "ACKNOWLEDGED": (marked("acknowledged"), "warn", "◐"),
    "RESOLVED": (marked("resolved"), "good", "✓"),
    "DRAFT": (marked("draft"), "calm", "○"),
    "RUNNING": (marked("running"), "busy", "▶"),
    "PAUSED": (marked("paused"), "warn", "‖"),
    "healthy": (marked("healthy"), "good", "✓"),
    "degraded": (marked("degraded"), "warn", "▲"),
    "unhealthy": (marked("unhealthy"), "bad", "✕"),
    "better": (marked("better"), "good", "▲"),
    "worse": (marked("worse"), "bad", "▼"),
    "open": (marked("not yet sure"), "calm", "○"),
    "kept": (marked("kept"), "good", "✓"),
    "broken": (marked("broken"), "bad", "✕"),
    "valid": (marked("valid"), "good", "✓"),
    "expired": (marked("expired"), "calm", "⊘"),
    "revoked": (marked("revoked"), "bad", "✕"),
    "done": (marked("done"), "good", "✓"),
}
_ROLES = {
    "PRIMARY": marked("primary"),
    "SECONDARY": marked("secondary"),
    "GUARDRAIL": marked("guardrail"),
    "MAXIMIZE": marked("more is better"),
    "MINIMIZE": marked("less is better"),
    "FIXED": marked("fixed shares"),
    "THOMPSON": marked("Thompson sampling"),
    "TOP_TWO": marked("top-two Thompson sampling"),
    "CLIENT": marked("client"),
    "ADMIN": marked("admin"),
    "admin": marked("admin"),
    "client": marked("client"),
    "image": marked("image"),
    "video": marked("video"),
    "auto": marked("as the system"),
    "light": marked("light"),
    "dark": marked("dark"),
}


def word(name: str) -> Word:
    """A state by its word in the contract; one that is not known is shown as it is."""
    text, tone, shape = _WORDS.get(name, (name, "calm", "·"))
    return Word(_(text), tone, shape)


def plain(name: str) -> str:
    """What is no state but a word of the contract, too."""
    return _(_ROLES.get(name, name))


def code(value: int) -> str:
    """The word of an error's code; empty for one without."""
    return "" if not value else name_of(common_pb2.ErrorCode, value, "ERROR_CODE_")


def name_of(kind: Any, value: int, prefix: str) -> str:
    """The word of an enum's number, without its prefix; `kind` is the generated enum."""
    return str(kind.Name(value)).removeprefix(prefix)
