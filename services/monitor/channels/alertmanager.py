"""Prometheus's Alertmanager, for those who route all their alerts there.

Source: https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml (POST /alerts). It forgets an alert
that is not sent again before its end, so the end is set beyond the repeat.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from pydantic import HttpUrl, SecretStr

from services.monitor.channels.base import Channel, ChannelConfig, Notification, Told
from services.monitor.channels.posting import Poster, plain
from services.monitor.channels.registry import channel


class AlertmanagerConfig(ChannelConfig):
    """Its address without the path of the API; a user or a token where a proxy asks for one."""

    url: HttpUrl
    bearer_token: SecretStr | None = None
    hold_seconds: float = 86_400.0
    """How long it counts as firing without another word. Longer than the longest repeat."""


@channel("alertmanager")
class Alertmanager(Channel):
    """Hands each alert over with its labels; it groups, silences and repeats by its own rules."""

    config = AlertmanagerConfig

    def __init__(self, config: AlertmanagerConfig) -> None:
        self._config = config
        self._poster = Poster()

    async def send(self, notification: Notification) -> None:
        """See the base."""
        token = self._config.bearer_token
        headers = {"authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        body = json.dumps([self._alert(told) for told in notification.alerts]).encode()
        url = f"{str(self._config.url).rstrip('/')}/api/v2/alerts"
        await self._poster.post(url, body, headers, names_itself="Alertmanager")

    async def close(self) -> None:
        """See the base."""
        await self._poster.close()

    def _alert(self, told: Told) -> dict[str, object]:
        alert = told.alert
        ends_at = alert.resolved_at or datetime.now(UTC) + timedelta(seconds=self._config.hold_seconds)
        labels = {
            "alertname": alert.type,
            "severity": alert.severity.value.lower(),
            "subject": alert.subject,
            "service": "darkroom",
        }
        annotations = {
            "summary": alert.message,
            "value": told.value,
            "threshold": told.threshold,
            "runbook_url": told.runbook_url,
            "console_url": told.console_url,
            "alert_id": alert.id,
        }
        return plain(
            {
                "labels": plain(labels),
                "annotations": plain(annotations),
                "startsAt": alert.started_at.isoformat(),
                "endsAt": ends_at.isoformat(),
                "generatorURL": told.console_url,
            }
        )
