"""From what rules find to alerts and notices: when one begins, is told again, escalates, keeps quiet and ends. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from libs.common.database.records_monitor import AlertRecord, NewDelivery, SilenceRecord
from libs.common.database.states import AlertSeverity, AlertState
from libs.common.database.stores.alerts import Decision, Situation
from libs.common.ids import new_id
from services.monitor.channels.base import Event
from services.monitor.measures import Measurement, World, holding
from services.monitor.rules import Rule, Rules

BY_HAND = "by_hand"
Key = tuple[str, str]
"""Type and subject: what an open alert is told by."""


def decide(situation: Situation, rules: Rules, world: World) -> Decision:
    """What follows from the situation by the rules."""
    found = {
        (rule.name, measurement.subject): (rule, measurement)
        for rule in rules.rules.values()
        for measurement in holding(rule, situation.facts, world)
    }
    alerts = _next_alerts(situation, rules, found)
    before = {alert.id: alert for alert in situation.open_alerts}
    open_keys = {(alert.type, alert.subject) for alert in alerts if alert.state is not AlertState.RESOLVED}
    decision = Decision()
    for alert in alerts:
        because = quiet_because(alert, rules, open_keys, situation.silences)
        told, notices = notices_of(replace(alert, quiet_because=because), rules, situation.now)
        if before.get(told.id) != told:
            decision.alerts.append(told)
        decision.deliveries.extend(notices)
    return decision


def _next_alerts(
    situation: Situation, rules: Rules, found: Mapping[Key, tuple[Rule, Measurement]]
) -> list[AlertRecord]:
    alerts = [_as_found(alert, found, rules, situation.now) for alert in situation.open_alerts]
    known = {(alert.type, alert.subject) for alert in situation.open_alerts}
    return alerts + [
        begun(rule, measurement, rules, situation.now) for key, (rule, measurement) in found.items() if key not in known
    ]


def begun(rule: Rule, measurement: Measurement, rules: Rules, now: datetime) -> AlertRecord:
    """A new alert."""
    return AlertRecord(
        id=new_id("alert"),
        type=rule.name,
        subject=measurement.subject,
        severity=rule.severity,
        state=AlertState.FIRING,
        message=measurement.message,
        value=measurement.value,
        threshold=rule.threshold,
        details={**measurement.details, "sample": measurement.sample},
        channels=rules.channels_of(rule.severity, rule.channels),
        started_at=now,
        seen_at=now,
    )


def _as_found(
    alert: AlertRecord, found: Mapping[Key, tuple[Rule, Measurement]], rules: Rules, now: datetime
) -> AlertRecord:
    if alert.details.get(BY_HAND):
        return alert
    key = (alert.type, alert.subject)
    if key in found:
        rule, measurement = found[key]
        return replace(
            alert,
            severity=rule.severity,
            message=measurement.message,
            value=measurement.value,
            threshold=rule.threshold,
            details={**measurement.details, "sample": measurement.sample},
            channels=rules.channels_of(rule.severity, rule.channels),
            seen_at=now,
        )
    gone = rules.rules.get(alert.type)
    patience = timedelta(seconds=gone.resolve_after_seconds if gone else 0)
    if now - alert.seen_at < patience:
        return alert
    return replace(alert, state=AlertState.RESOLVED, resolved_at=now)


def quiet_because(
    alert: AlertRecord, rules: Rules, open_keys: Iterable[Key], silences: Sequence[SilenceRecord]
) -> str | None:
    """Why nobody is told of an alert now; None: they are."""
    for silence in silences:
        if silence.type in {"", alert.type} and silence.subject in {"", alert.subject}:
            return f"silenced by {silence.created_by} until {silence.until:%Y-%m-%d %H:%M} UTC: {silence.reason}"
    keys = set(open_keys)
    for inhibition in rules.file.inhibitions:
        if alert.type not in inhibition.targets:
            continue
        for kind, subject in keys:
            if kind == inhibition.source and (not inhibition.same_subject or subject == alert.subject):
                return f"explained by {kind}{f' of {subject}' if subject else ''}"
    return None


def notices_of(alert: AlertRecord, rules: Rules, now: datetime) -> tuple[AlertRecord, list[NewDelivery]]:
    """The notices that are due for an alert, and the alert with what was told."""
    if alert.state is AlertState.RESOLVED:
        # Who was told that it began is told that it ended, also in a silence.
        return alert, _notices(alert, "resolved", alert.channels, 0.0) if alert.notified_at else []
    event = None if alert.quiet_because is not None else _due(alert, rules, now)
    if event is None:
        return alert, []
    channels, delay_seconds = alert.channels, rules.file.group_wait_seconds
    told = replace(alert, notified_at=now)
    if event == "escalated":
        told = replace(told, escalated_at=now)
        channels, delay_seconds = rules.channels_of(alert.severity, rules.file.escalation.channels or None), 0.0
    return told, _notices(told, event, channels, delay_seconds)


def _due(alert: AlertRecord, rules: Rules, now: datetime) -> Event | None:
    if alert.notified_at is None:
        return "firing"
    if alert.state is not AlertState.FIRING:
        return None
    if _escalates(alert, rules, now):
        return "escalated"
    is_due = now - alert.notified_at >= timedelta(seconds=rules.repeat_seconds(alert.type))
    return "repeated" if is_due else None


def _escalates(alert: AlertRecord, rules: Rules, now: datetime) -> bool:
    return (
        alert.severity is AlertSeverity.CRITICAL
        and alert.escalated_at is None
        and now - alert.started_at >= timedelta(seconds=rules.file.escalation.after_seconds)
    )


def _notices(alert: AlertRecord, event: Event, channels: Iterable[str], delay_seconds: float) -> list[NewDelivery]:
    return [NewDelivery(new_id("dlv"), alert.id, channel, event, delay_seconds) for channel in channels]
