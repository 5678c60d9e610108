"""A provider's reply, and what follows from it: its JSON, its error code, and whether it proves a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from libs.common.adapters.kept import Clean, kept_text
from libs.common.adapters.reading import storable
from libs.common.adapters.searching import error_texts
from libs.common.adapters.states import is_missing
from libs.common.errors import ErrorCode, GenerationError, UnreadableReply
from libs.common.logging import redacted

RETRY_AFTER_LIMIT_SECONDS = 600.0


# The call broke off between the provider and a proxy of its own, which says nothing of what the provider did: 408 is a
# timeout, 499 is nginx' word (NGX_HTTP_CLIENT_CLOSED_REQUEST), 460 that of AWS' load balancers.
_CALL_BROKE_OFF = frozenset({408, 460, 499})


@dataclass(frozen=True, slots=True)
class Reply:
    """A provider's reply.

    Attributes:
        status: the HTTP status.
        body: the JSON in it; None where it is not JSON.
        text: its beginning for people, without credentials.
        request_id: the provider's own id of the call.
        retry_after_seconds: the wait that it asks for.
        headers: of HTTP.
        size_bytes: of the whole body.
        head: the beginning of a body that is not JSON, at most 64 KiB.
        content: the whole of a good reply's body that is a picture or a video itself.
        clean: cuts the account's credentials out of a text.
        echoes: the texts of the request that it answers, which a provider may repeat in an error.
    """

    status: int
    body: Any
    text: str
    request_id: str | None
    retry_after_seconds: float | None
    headers: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    head: str = ""
    content: bytes = b""
    clean: Clean = redacted
    echoes: tuple[str, ...] = ()

    def says(self, *words: str) -> bool:
        """Whether an error in it says any of these words, in lower case, that are not in the request as well."""
        said = (error_texts(self.body) or self.text).lower()
        found = [word for word in words if word in said]
        return bool(found) and not any(word in echo.lower() for echo in self.echoes for word in found)

    def unreadable(self, why: str) -> UnreadableReply:
        """The error for a reply that does not say what the call asks for. `why`: what is missing or wrong in it."""
        return UnreadableReply(why, self.kept(), self.facts())

    def kept(self) -> dict[str, Any]:
        """The reply as a row keeps it: http_status, content_type, size_bytes, body."""
        return {
            "http_status": self.status,
            "content_type": storable(self.headers.get("content-type") or "")[:200],
            "size_bytes": self.size_bytes,
            "body": kept_text(self.body, self.head or self.text, self.clean),
        }

    def facts(self) -> dict[str, Any]:
        """What an error about this reply tells of it."""
        facts: dict[str, Any] = {"http_status": self.status}
        if self.request_id:
            facts["provider_request_id"] = self.request_id
        return facts


_PROVIDERS_FAULTS = {ErrorCode.PROVIDER_ERROR, ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.PROVIDER_TIMEOUT}
_CALLERS_CODES = {ErrorCode.INVALID_REQUEST, ErrorCode.INVALID_PARAMETERS}
_CODE_OF_STATUS: dict[int, ErrorCode] = {
    401: ErrorCode.AUTHENTICATION_FAILED,
    402: ErrorCode.QUOTA_EXCEEDED,
    403: ErrorCode.AUTHENTICATION_FAILED,
    408: ErrorCode.PROVIDER_TIMEOUT,
    429: ErrorCode.RATE_LIMITED,
    500: ErrorCode.PROVIDER_ERROR,
    502: ErrorCode.PROVIDER_UNAVAILABLE,
    503: ErrorCode.PROVIDER_UNAVAILABLE,
    504: ErrorCode.PROVIDER_TIMEOUT,
}


# Words with which vendors say that the account cannot pay.
_OUT_OF_CREDIT = (
    "credit",
    "exhausted balance",
    "insufficient balance",
    "billing",
    "quota is not enough",
    "额度",
    "余额",
)


def code_of(reply: Reply) -> ErrorCode:
    """The code of an HTTP error, from its status and what it says of the account's balance."""
    if 400 <= reply.status < 500 and is_out_of_credit(reply):
        return ErrorCode.QUOTA_EXCEEDED
    return code_of_status(reply.status)


def code_of_status(status: int) -> ErrorCode:
    """The code of an HTTP error, from its status alone."""
    known = _CODE_OF_STATUS.get(status)
    if known is not None:
        return known
    return ErrorCode.INVALID_REQUEST if 400 <= status < 500 else ErrorCode.PROVIDER_ERROR


def is_out_of_credit(reply: Reply) -> bool:
    """Whether an error says, in words, that the account's balance is used up."""
    return reply.says(*_OUT_OF_CREDIT)


def retry_after(header: str | None) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date (RFC 9110, 10.2.3); None where there is none."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    # `max` also turns a NaN into 0.
    return min(RETRY_AFTER_LIMIT_SECONDS, max(0.0, seconds))


def proves_refusal(reply: Reply, code: ErrorCode) -> bool:
    """Whether the reply to a submit proves that the provider did not accept the request.

    A fault of the server proves nothing, whatever its status; nor does a timeout, nor a redirect to the result.
    """
    if 400 <= reply.status < 500:
        return reply.status not in _CALL_BROKE_OFF
    if reply.status < 300:
        return code not in _PROVIDERS_FAULTS
    return reply.status in {301, 307, 308}


def of_read(reply: Reply, error: GenerationError, *, is_retryable: bool = True) -> GenerationError:
    """The error of a read. Its code blames the provider and never the caller, who did not make this call."""
    code = ErrorCode.PROVIDER_ERROR if error.code in _CALLERS_CODES else error.code
    is_client_error = 400 <= reply.status < 500
    details = error.details | ({"http_status": 404} if is_client_error and is_missing_task(reply.body) else {})
    return GenerationError(
        code, error.message, details, is_retryable=is_retryable, retry_after_seconds=error.retry_after_seconds
    )


def is_missing_task(body: Any) -> bool:
    """Whether the body of a reply says, in the words of its codes or messages, that there is no such task."""
    return any(is_missing(text) for text in error_texts(body).splitlines())


def missing_task(reply: Reply) -> GenerationError:
    """The error of a read whose reply says that there is no such task, with the facts of a 404 whatever its status."""
    return GenerationError(
        ErrorCode.PROVIDER_ERROR,
        f"The provider answers that it has no such task: {reply.text}",
        reply.facts() | {"http_status": 404},
        is_retryable=True,
    )
