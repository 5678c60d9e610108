"""Alerts, components and processes as operators see them."""

from __future__ import annotations

from collections.abc import Sequence

from darkroom.monitor.v1 import monitor_pb2

from libs.common import VERSION
from libs.common.database.records_monitor import AlertRecord, DeliveryRecord, InstanceRecord, SilenceRecord
from libs.common.rpc.messages import timestamp
from libs.common.rpc.structs import to_struct
from services.monitor.board import Component, Whole
from services.monitor.rules import Rules

_STATUSES = {
    "up": monitor_pb2.COMPONENT_STATUS_UP,
    "degraded": monitor_pb2.COMPONENT_STATUS_DEGRADED,
    "down": monitor_pb2.COMPONENT_STATUS_DOWN,
}


def alert_message(alert: AlertRecord, runbook_url: str) -> monitor_pb2.Alert:
    """An alert."""
    return monitor_pb2.Alert(
        id=alert.id,
        type=alert.type,
        subject=alert.subject,
        severity=monitor_pb2.AlertSeverity.Value(f"ALERT_SEVERITY_{alert.severity.value}"),
        state=monitor_pb2.AlertState.Value(f"ALERT_STATE_{alert.state.value}"),
        message=alert.message,
        value=alert.value,
        threshold=alert.threshold,
        started_at=timestamp(alert.started_at),
        acknowledged_at=timestamp(alert.acknowledged_at),
        acknowledged_by=alert.acknowledged_by or "",
        acknowledge_note=alert.acknowledge_note or "",
        escalated_at=timestamp(alert.escalated_at),
        resolved_at=timestamp(alert.resolved_at),
        details=to_struct(alert.details),
        channels=alert.channels,
        quiet_because=alert.quiet_because or "",
        runbook_url=runbook_url,
    )


def delivery_message(delivery: DeliveryRecord) -> monitor_pb2.Delivery:
    """A notice with its attempts."""
    return monitor_pb2.Delivery(
        id=delivery.id,
        channel=delivery.channel,
        event=delivery.event,
        state=monitor_pb2.DeliveryState.Value(f"DELIVERY_STATE_{delivery.state.value}"),
        created_at=timestamp(delivery.created_at),
        attempts=[
            monitor_pb2.DeliveryAttempt(
                attempt=attempt.attempt, error=attempt.error or "", ended_at=timestamp(attempt.ended_at)
            )
            for attempt in delivery.attempts
        ],
    )


def channel_messages(rules: Rules) -> list[monitor_pb2.AlertChannel]:
    """The channels of the rules file, set up or not."""
    return [
        monitor_pb2.AlertChannel(
            name=name,
            type=kind,
            severities=[
                monitor_pb2.AlertSeverity.Value(f"ALERT_SEVERITY_{severity.value}")
                for severity, names in rules.file.severities.items()
                if name in names
            ],
            missing_variables=rules.unset.get(name, ()),
        )
        for name, kind in sorted(rules.types.items())
    ]


def silence_message(silence: SilenceRecord) -> monitor_pb2.Silence:
    """A silence."""
    return monitor_pb2.Silence(
        id=silence.id,
        type=silence.type,
        subject=silence.subject,
        until=timestamp(silence.until),
        reason=silence.reason,
        created_by=silence.created_by,
        created_at=timestamp(silence.created_at),
    )


def health_message(
    whole: Whole, components: Sequence[Component], uptime_seconds: float
) -> monitor_pb2.GetHealthResponse:
    """How everything is."""
    answer = monitor_pb2.GetHealthResponse(
        status=whole,
        uptime_seconds=uptime_seconds,
        version=VERSION,
        components=[
            monitor_pb2.Component(
                name=component.name,
                status=_STATUSES[component.status],
                message=component.message,
                last_check=timestamp(component.last_check),
                response_time_ms=round(component.response_ms, 1),
            )
            for component in components
        ],
    )
    answer.timestamp.GetCurrentTime()
    return answer


def instance_message(instance: InstanceRecord) -> monitor_pb2.Instance:
    """A process."""
    return monitor_pb2.Instance(
        owner=instance.owner,
        service=instance.service,
        version=instance.version,
        is_ready=instance.is_ready,
        resident_bytes=instance.resident_bytes,
        cpu_percent=round(instance.cpu_percent, 1),
        started_at=timestamp(instance.started_at),
        seen_at=timestamp(instance.seen_at),
    )
