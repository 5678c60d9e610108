"""From alerts to what channels are given: figures with their units, and links."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from libs.common.database.records_monitor import AlertRecord
from services.monitor.channels.base import Event, Notification, Told
from services.monitor.measures import shown
from services.monitor.rules import Rules


def told(alert: AlertRecord, rules: Rules, console_url: str | None) -> Told:
    """An alert as people are told of it."""
    rule = rules.rules.get(alert.type)
    kind = rule.type if rule else None
    return Told(
        alert=alert,
        value=shown(kind, alert.value),
        threshold=shown(kind, alert.threshold),
        console_url=f"{console_url.rstrip('/')}/monitoring/alerts/{alert.id}" if console_url else "",
        runbook_url=rules.runbook_url(alert.type),
    )


def notification(
    identifier: str,
    event: Event,
    alerts: Sequence[AlertRecord],
    *,
    created_at: datetime,
    rules: Rules,
    console_url: str | None,
) -> Notification:
    """Alerts that go out together."""
    return Notification(identifier, event, created_at, [told(alert, rules, console_url) for alert in alerts])
