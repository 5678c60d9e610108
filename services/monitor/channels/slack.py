"""Slack, by an incoming webhook or by a bot's token.

Sources: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, chat.postMessage, Block Kit (50
blocks and 3,000 characters a section at most).
"""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import HttpUrl, SecretStr, model_validator

from services.monitor.channels.base import Channel, ChannelConfig, ChannelFailed, Notification, Told
from services.monitor.channels.posting import Poster
from services.monitor.channels.registry import channel

_BLOCKS = 20
_SECTION_LIMIT = 2_900
_SIGNS = {"CRITICAL": ":red_circle:", "WARNING": ":large_yellow_circle:", "INFO": ":large_blue_circle:"}
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# What another attempt may get past: https://docs.slack.dev/reference/methods/chat.postMessage#errors.
_PASSING = {"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"}


class SlackConfig(ChannelConfig):
    """Either `webhook_url`, or `token` with `channel`."""

    webhook_url: SecretStr | None = None
    token: SecretStr | None = None
    channel: str | None = None
    api_url: HttpUrl = HttpUrl("https://slack.com/api/")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.webhook_url is None) == (self.token is None):
            raise ValueError("exactly one of webhook_url and token is needed")
        if self.token is not None and not self.channel:
            raise ValueError("a token needs a channel")
        return self


@channel("slack")
class Slack(Channel):
    """Blocks: a heading, and a section for each alert."""

    config = SlackConfig

    def __init__(self, config: SlackConfig) -> None:
        self._config = config
        self._poster = Poster()

    async def send(self, notification: Notification) -> None:
        """See the base."""
        message: dict[str, Any] = {"text": notification.subject.translate(_ESCAPES), "blocks": _blocks(notification)}
        if self._config.webhook_url is not None:
            body = json.dumps(message).encode()
            await self._poster.post(self._config.webhook_url.get_secret_value(), body, {}, names_itself="Slack")
            return
        assert self._config.token is not None
        headers = {"authorization": f"Bearer {self._config.token.get_secret_value()}"}
        body = json.dumps({**message, "channel": self._config.channel}).encode()
        url = f"{str(self._config.api_url).rstrip('/')}/chat.postMessage"
        _, content = await self._poster.post(url, body, headers, names_itself="Slack")
        _check(content)

    async def close(self) -> None:
        """See the base."""
        await self._poster.close()


def _check(content: bytes) -> None:
    """Slack answers 200 for failures too, and says so in the body."""
    try:
        answer = json.loads(content)
        if answer["ok"]:
            return
        why = str(answer.get("error", "unknown"))[:100]
    except (ValueError, KeyError, TypeError) as error:
        raise ChannelFailed("Slack's answer cannot be read.") from error
    raise ChannelFailed(f"Slack refused it: {why}.", is_hopeless=why not in _PASSING)


def _blocks(notification: Notification) -> list[dict[str, Any]]:
    heading = {"type": "header", "text": {"type": "plain_text", "text": notification.subject[:150], "emoji": False}}
    shown = [_section(notification, told) for told in notification.alerts[:_BLOCKS]]
    left = len(notification.alerts) - len(shown)
    more = [{"type": "context", "elements": [{"type": "mrkdwn", "text": f"and {left} more"}]}] if left else []
    return [heading, *shown, *more]


def _section(notification: Notification, told: Told) -> dict[str, Any]:
    alert = told.alert
    sign = ":white_check_mark:" if notification.event == "resolved" else _SIGNS[alert.severity.value]
    since = f"<!date^{int(alert.started_at.timestamp())}^{{date_short_pretty}} {{time}}|{alert.started_at.isoformat()}>"
    links = " · ".join(
        f"<{url}|{word}>" for word, url in (("Console", told.console_url), ("Runbook", told.runbook_url)) if url
    )
    lines = [
        f"{sign} *{alert.type}* {alert.subject}".translate(_ESCAPES),
        alert.message.translate(_ESCAPES),
        f"{told.value} against {told.threshold}, since {since}",
        links,
    ]
    text = "\n".join(line for line in lines if line)
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:_SECTION_LIMIT]}}
