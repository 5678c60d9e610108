"""A webhook, signed as standardwebhooks.com says, so that any of its libraries verifies it."""

from __future__ import annotations

import base64
import binascii
import json
import time

from pydantic import HttpUrl, SecretStr, field_validator

from libs.common.adapters.signatures import standard_headers
from services.monitor.channels.base import Channel, ChannelConfig, Notification, Told
from services.monitor.channels.posting import Poster, plain
from services.monitor.channels.registry import channel


class WebhookConfig(ChannelConfig):
    """Where it goes to, and the secret that signs it: `whsec_` and 24 to 64 bytes in base64."""

    url: HttpUrl
    secret: SecretStr

    @field_validator("secret")
    @classmethod
    def _is_base64(cls, secret: SecretStr) -> SecretStr:
        try:
            key = base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("must be whsec_ and base64") from error
        if not 24 <= len(key) <= 64:
            raise ValueError("must hold 24 to 64 bytes")
        return secret


@channel("webhook")
class Webhook(Channel):
    """`{"type": "alert.firing", "timestamp", "data": {"alerts": [...]}}`; the id of a repeat is the same."""

    config = WebhookConfig

    def __init__(self, config: WebhookConfig) -> None:
        self._config = config
        self._poster = Poster()

    async def send(self, notification: Notification) -> None:
        """See the base."""
        payload = {
            "type": f"alert.{notification.event}",
            "timestamp": notification.created_at.isoformat(),
            "data": {"title": notification.subject, "alerts": [alert_json(told) for told in notification.alerts]},
        }
        body = json.dumps(payload, ensure_ascii=False).encode()
        key = base64.b64decode(self._config.secret.get_secret_value().removeprefix("whsec_"))
        headers = standard_headers(notification.id, body, key, now=time.time())
        await self._poster.post(str(self._config.url), body, headers)

    async def close(self) -> None:
        """See the base."""
        await self._poster.close()


def alert_json(told: Told) -> dict[str, object]:
    """An alert as JSON values."""
    alert = told.alert
    return plain(
        {
            "id": alert.id,
            "type": alert.type,
            "subject": alert.subject,
            "severity": alert.severity.value,
            "state": alert.state.value,
            "message": alert.message,
            "value": alert.value,
            "threshold": alert.threshold,
            "startedAt": alert.started_at.isoformat(),
            "resolvedAt": alert.resolved_at.isoformat() if alert.resolved_at else None,
            "details": alert.details,
            "consoleUrl": told.console_url,
            "runbookUrl": told.runbook_url,
        }
    )
