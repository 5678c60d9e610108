"""Email over SMTP with TLS and login, as text and as HTML. Source: RFC 5321, RFC 8314 (TLS)."""

from __future__ import annotations

from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Annotated, Any, Literal

import aiosmtplib
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import BeforeValidator, Field, SecretStr

from services.monitor.channels.base import TIMEOUT_SECONDS, Channel, ChannelConfig, ChannelFailed, Notification
from services.monitor.channels.registry import channel

_PERMANENT = 500
_templates = Environment(
    loader=PackageLoader("services.monitor", "templates"),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
Address = Annotated[str, Field(pattern=r"^[^@\s<>,;]+@[^@\s<>,;]+$", max_length=320)]


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class EmailConfig(ChannelConfig):
    """`security`: `starttls`, `tls` from the first byte, or `none` for a relay on the same machine."""

    host: str = Field(min_length=1)
    port: int = Field(default=587, ge=1, le=65_535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: str | None = None
    """Who signs the server's certificate, where that is not one of the system's."""
    username: str | None = None
    password: SecretStr | None = None
    sender: Address
    recipients: Annotated[tuple[Address, ...], BeforeValidator(_listed), Field(min_length=1, max_length=50)]


@channel("email")
class Email(Channel):
    """One message a notification; its Message-ID is that of the notification, so that a repeat can be told."""

    config = EmailConfig

    def __init__(self, config: EmailConfig) -> None:
        self._config = config

    async def send(self, notification: Notification) -> None:
        """See the base."""
        config = self._config
        try:
            await aiosmtplib.send(
                self._message(notification),
                hostname=config.host,
                port=config.port,
                username=config.username,
                password=config.password.get_secret_value() if config.password else None,
                use_tls=config.security == "tls",
                start_tls=config.security == "starttls",
                cert_bundle=config.ca_file if config.security != "none" else None,
                timeout=TIMEOUT_SECONDS,
            )
        except aiosmtplib.SMTPAuthenticationError as error:
            raise ChannelFailed(f"The mail server does not take the login: {error.code}.", is_hopeless=True) from error
        except aiosmtplib.SMTPResponseException as error:
            raise ChannelFailed(
                f"The mail server answered {error.code}.", is_hopeless=error.code >= _PERMANENT
            ) from error
        except aiosmtplib.SMTPRecipientsRefused as error:
            raise ChannelFailed("The mail server takes none of the recipients.", is_hopeless=True) from error
        except aiosmtplib.SMTPException as error:
            raise ChannelFailed(f"The mail server cannot be reached: {type(error).__name__}.") from error

    def _message(self, notification: Notification) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = notification.subject
        message["From"] = self._config.sender
        message["To"] = ", ".join(self._config.recipients)
        message["Date"] = format_datetime(notification.created_at)
        domain = self._config.sender.partition("@")[2]
        message["Message-ID"] = f"<{notification.id}@{domain}>" if notification.id else make_msgid(domain=domain)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(_templates.get_template("notification.txt").render(notification=notification))
        message.add_alternative(
            _templates.get_template("notification.html").render(notification=notification), subtype="html"
        )
        return message
