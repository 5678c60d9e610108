"""From messages about alerts to what is to be done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

from darkroom.monitor.v1 import monitor_pb2

from libs.common.database.records_monitor import AlertRecord, NewDelivery, SilenceRecord
from libs.common.database.states import AlertSeverity, AlertState
from libs.common.database.stores.alerts import Decision
from libs.common.errors import FieldViolation
from libs.common.ids import new_id
from libs.common.rpc.requests import raise_for, text_faults, time_of
from libs.common.settings import LogLevel, ServiceName
from services.monitor.alerting import BY_HAND
from services.monitor.rules import Rules

TEST = "TEST"
_NAME_LIMIT, _MESSAGE_LIMIT, _NOTE_LIMIT = 100, 1_000, 2_000
_LONGEST_SILENCE = timedelta(days=366)
_SEVERITIES = {
    monitor_pb2.ALERT_SEVERITY_INFO: AlertSeverity.INFO,
    monitor_pb2.ALERT_SEVERITY_WARNING: AlertSeverity.WARNING,
    monitor_pb2.ALERT_SEVERITY_CRITICAL: AlertSeverity.CRITICAL,
}
_STATES = {
    monitor_pb2.ALERT_STATE_FIRING: AlertState.FIRING,
    monitor_pb2.ALERT_STATE_ACKNOWLEDGED: AlertState.ACKNOWLEDGED,
    monitor_pb2.ALERT_STATE_RESOLVED: AlertState.RESOLVED,
}
_LEVEL_SECONDS, _LONGEST_LEVEL_SECONDS = 900, 86_400


def check_text(name: str, text: str, limit: int, found: list[FieldViolation], *, is_required: bool = False) -> None:
    """Add what is wrong with a text to `found`."""
    if is_required and not text.strip():
        found.append(FieldViolation(name, "required", "is required"))
    found += text_faults({name: text}, {name: limit})


def checked_note(note: str) -> str:
    """A note. InvalidRequest for one that is too long."""
    found: list[FieldViolation] = []
    check_text("note", note, _NOTE_LIMIT, found)
    raise_for(found)
    return note


def list_filter(request: monitor_pb2.ListAlertsRequest) -> tuple[AlertState | None, AlertSeverity | None]:
    """Which alerts are wanted. InvalidRequest with every fault."""
    found = []
    if request.state and request.state not in _STATES:
        found.append(FieldViolation("state", "one_of", "must be one of the states"))
    if request.severity and request.severity not in _SEVERITIES:
        found.append(FieldViolation("severity", "one_of", "must be one of the severities"))
    raise_for(found)
    return _STATES.get(request.state), _SEVERITIES.get(request.severity)


def sent_by_hand(request: monitor_pb2.SendAlertRequest, rules: Rules, by: str) -> Decision:
    """The alert that somebody raises, with its notices. InvalidRequest with every fault.

    Nothing clears it but an acknowledgement; one of type TEST is over with its notice.
    """
    found: list[FieldViolation] = []
    check_text("type", request.type, _NAME_LIMIT, found, is_required=True)
    check_text("message", request.message, _MESSAGE_LIMIT, found, is_required=True)
    if request.type in rules.rules:
        found.append(FieldViolation("type", "reserved", "is a rule, which raises its alerts by itself"))
    severity = _SEVERITIES.get(request.severity)
    if severity is None:
        found.append(FieldViolation("severity", "one_of", "must be one of the severities"))
    for index, name in enumerate(request.channels):
        if name not in rules.channels:
            there = ", ".join(sorted(rules.channels)) or "none"
            fault = f"there is no such channel, or its environment is not set; there are: {there}"
            found.append(FieldViolation(f"channels[{index}]", "unknown", fault))
    raise_for(found)
    assert severity is not None
    channels = list(dict.fromkeys(request.channels)) or rules.channels_of(severity)
    now = datetime.now(UTC)
    is_test = request.type == TEST
    alert_id = new_id("alert")
    alert = AlertRecord(
        id=alert_id,
        type=request.type,
        subject=alert_id,
        severity=severity,
        state=AlertState.RESOLVED if is_test else AlertState.FIRING,
        message=request.message,
        value=0,
        threshold=0,
        details={BY_HAND: True, "by": by},
        channels=channels,
        started_at=now,
        seen_at=now,
        notified_at=now,
        resolved_at=now if is_test else None,
    )
    event = "test" if is_test else "firing"
    return Decision([alert], [NewDelivery(new_id("dlv"), alert_id, channel, event) for channel in channels])


def new_silence(request: monitor_pb2.SilenceAlertsRequest, by: str) -> SilenceRecord:
    """The silence that somebody wants. InvalidRequest with every fault."""
    found: list[FieldViolation] = []
    check_text("type", request.type, _NAME_LIMIT, found)
    check_text("subject", request.subject, _NAME_LIMIT * 2, found)
    check_text("reason", request.reason, _NOTE_LIMIT, found, is_required=True)
    now = datetime.now(UTC)
    until = time_of(request.until, "until", found) if request.HasField("until") else None
    if until is None:
        found.append(FieldViolation("until", "required", "is required"))
    elif not now < until <= now + _LONGEST_SILENCE:
        found.append(FieldViolation("until", "future", "must be in the future, at most a year ahead"))
    raise_for(found)
    assert until is not None
    return SilenceRecord(new_id("sil"), request.type, request.subject, request.reason, by, now, until)


def log_level(request: monitor_pb2.SetLogLevelRequest) -> tuple[str, str, int]:
    """Whose level, which, and for how many seconds. InvalidRequest with every fault."""
    found = []
    seconds = request.seconds if request.HasField("seconds") else _LEVEL_SECONDS
    if request.service not in get_args(ServiceName):
        found.append(FieldViolation("service", "one_of", f"must be one of {', '.join(get_args(ServiceName))}"))
    if request.level and request.level not in get_args(LogLevel):
        found.append(FieldViolation("level", "one_of", f"must be one of {', '.join(get_args(LogLevel))}, or empty"))
    if not 1 <= seconds <= _LONGEST_LEVEL_SECONDS:
        found.append(FieldViolation("seconds", "range", f"must be from 1 to {_LONGEST_LEVEL_SECONDS}"))
    raise_for(found)
    return request.service, request.level, seconds
