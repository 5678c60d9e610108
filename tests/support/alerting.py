"""Where alerts go in tests: a real SMTP server with TLS and login, and real HTTP endpoints."""

from __future__ import annotations

import base64
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from aiohttp import web
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from sandbox.processes import free_port
from tests.support.certificates import certificate
from tests.support.receiver import Receiver, receiver

USERNAME, PASSWORD = "darkroom", "a-password-of-the-mail-server"


@dataclass
class Mailbox:
    """What came by mail. `refuses`: it answers 451 to each."""

    port: int
    ca: Path
    messages: list[EmailMessage] = field(default_factory=list)
    refuses: bool = False

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Keep it."""
        if self.refuses:
            return "451 later"
        content = envelope.content
        assert isinstance(content, bytes)
        self.messages.append(message_from_bytes(content, policy=policy.default))
        return "250 OK"


def _login(server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
    good = isinstance(given, LoginPassword) and (given.login, given.password) == (
        USERNAME.encode(),
        PASSWORD.encode(),
    )
    return AuthResult(success=good, handled=False)


@dataclass
class Desk:
    """All that alerts come to, and what the rules file calls it."""

    mailbox: Mailbox
    webhook: Receiver
    slack: Receiver
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """What the shipped rules file asks for."""
        return {
            "DARKROOM_SMTP_HOST": "127.0.0.1",
            "DARKROOM_SMTP_USERNAME": USERNAME,
            "DARKROOM_SMTP_PASSWORD": PASSWORD,
            "DARKROOM_ALERT_EMAIL_FROM": "darkroom@example.com",
            "DARKROOM_ALERT_EMAIL_TO": "a@example.com, b@example.com",
            "DARKROOM_ALERT_WEBHOOK_URL": self.webhook.url,
            "DARKROOM_ALERT_WEBHOOK_SECRET": self.secret,
            "DARKROOM_SLACK_WEBHOOK_URL": self.slack.url,
        }

    def events(self) -> list[str]:
        """What the webhook was told, verified."""
        return [f"{told['type']}" for told in (request.verified(self.secret) for request in self.webhook.received)]

    def counts(self) -> tuple[int, int, int]:
        """How many came by mail, by webhook and to Slack."""
        return len(self.mailbox.messages), len(self.webhook.received), len(self.slack.received)


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    """One on the loopback interface."""
    files = certificate(folder / "mail", "mail")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.private_key)
    mailbox = Mailbox(free_port(), files.ca)
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=mailbox.port,
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=_login,
    )
    controller.start()
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    try:
        async with receiver() as webhook, receiver() as slack:
            slack.answer = lambda _: web.Response(text="ok")
            yield Desk(mailbox, webhook, slack, secret)
    finally:
        controller.stop()


def rules_text(shipped: str, found: Desk) -> str:
    """The shipped rules, with the desk's port and authority, and without waits."""
    return (
        shipped.replace("port: 587", f"port: {found.mailbox.port}")
        .replace("security: starttls", f"security: starttls\n    ca_file: {found.mailbox.ca}")
        .replace("group_wait_seconds: 5", "group_wait_seconds: 0")
        .replace("evaluate_seconds: 15", "evaluate_seconds: 0.3")
        .replace(", resolve_after_seconds: 60", "")
    )
