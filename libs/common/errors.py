"""One taxonomy of errors: whatever fails becomes a `GenerationError` where it is first seen.

It crosses gRPC intact (`libs.common.rpc.errors`), is stored with the generation, and maps once to a gRPC
status and once to an HTTP status. Adapters add nothing to it; they only choose a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, NamedTuple

import grpc

from libs.common.details import bounded

VIOLATIONS_LIMIT = 100
_NAMED_FIELDS = 20
_DETAILS_LIMIT_BYTES = 8_000
MESSAGE_LIMIT = 1_000

Details = dict[str, Any]


class ErrorCode(StrEnum):
    """Why something failed. `darkroom.common.v1.ErrorCode` has the same names, with the meaning of each."""

    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_PARAMETERS = "INVALID_PARAMETERS"
    AUTHENTICATION_FAILED = "AUTHENTICATION_FAILED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    RATE_LIMITED = "RATE_LIMITED"
    CONTENT_REJECTED = "CONTENT_REJECTED"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    S3_UPLOAD_FAILED = "S3_UPLOAD_FAILED"
    TASK_TIMEOUT = "TASK_TIMEOUT"
    TASK_FAILED = "TASK_FAILED"
    TASK_CANCELLED = "TASK_CANCELLED"
    SUBMISSION_UNCERTAIN = "SUBMISSION_UNCERTAIN"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    SKIPPED = "SKIPPED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    ALREADY_ENDED = "ALREADY_ENDED"


class Mapping(NamedTuple):
    """What a code means outside: the gRPC status, the HTTP status, and whether a repeat may help."""

    grpc_status: grpc.StatusCode
    http_status: HTTPStatus
    is_retryable: bool


MAPPINGS: dict[ErrorCode, Mapping] = {
    ErrorCode.INVALID_REQUEST: Mapping(grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST, False),
    ErrorCode.INVALID_PARAMETERS: Mapping(grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST, False),
    ErrorCode.AUTHENTICATION_FAILED: Mapping(grpc.StatusCode.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED, False),
    ErrorCode.QUOTA_EXCEEDED: Mapping(grpc.StatusCode.RESOURCE_EXHAUSTED, HTTPStatus.PAYMENT_REQUIRED, False),
    ErrorCode.RATE_LIMITED: Mapping(grpc.StatusCode.RESOURCE_EXHAUSTED, HTTPStatus.TOO_MANY_REQUESTS, True),
    ErrorCode.CONTENT_REJECTED: Mapping(grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.UNPROCESSABLE_ENTITY, False),
    ErrorCode.PROVIDER_ERROR: Mapping(grpc.StatusCode.INTERNAL, HTTPStatus.BAD_GATEWAY, False),
    ErrorCode.PROVIDER_UNAVAILABLE: Mapping(grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE, True),
    ErrorCode.PROVIDER_TIMEOUT: Mapping(grpc.StatusCode.DEADLINE_EXCEEDED, HTTPStatus.GATEWAY_TIMEOUT, True),
    ErrorCode.INTERNAL_ERROR: Mapping(grpc.StatusCode.INTERNAL, HTTPStatus.INTERNAL_SERVER_ERROR, False),
    ErrorCode.S3_UPLOAD_FAILED: Mapping(grpc.StatusCode.UNAVAILABLE, HTTPStatus.BAD_GATEWAY, True),
    ErrorCode.TASK_TIMEOUT: Mapping(grpc.StatusCode.DEADLINE_EXCEEDED, HTTPStatus.GATEWAY_TIMEOUT, False),
    ErrorCode.TASK_FAILED: Mapping(grpc.StatusCode.ABORTED, HTTPStatus.BAD_GATEWAY, False),
    ErrorCode.TASK_CANCELLED: Mapping(grpc.StatusCode.CANCELLED, HTTPStatus.CONFLICT, False),
    ErrorCode.SUBMISSION_UNCERTAIN: Mapping(grpc.StatusCode.UNKNOWN, HTTPStatus.BAD_GATEWAY, False),
    ErrorCode.NOT_FOUND: Mapping(grpc.StatusCode.NOT_FOUND, HTTPStatus.NOT_FOUND, False),
    ErrorCode.ALREADY_EXISTS: Mapping(grpc.StatusCode.ALREADY_EXISTS, HTTPStatus.CONFLICT, False),
    ErrorCode.SERVICE_UNAVAILABLE: Mapping(grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE, True),
    ErrorCode.UNIMPLEMENTED: Mapping(grpc.StatusCode.UNIMPLEMENTED, HTTPStatus.NOT_IMPLEMENTED, False),
    ErrorCode.PERMISSION_DENIED: Mapping(grpc.StatusCode.PERMISSION_DENIED, HTTPStatus.FORBIDDEN, False),
    ErrorCode.SKIPPED: Mapping(grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT, False),
    ErrorCode.OUTCOME_UNKNOWN: Mapping(grpc.StatusCode.DEADLINE_EXCEEDED, HTTPStatus.GATEWAY_TIMEOUT, False),
    ErrorCode.DEADLINE_EXCEEDED: Mapping(grpc.StatusCode.DEADLINE_EXCEEDED, HTTPStatus.GATEWAY_TIMEOUT, True),
    ErrorCode.ALREADY_ENDED: Mapping(grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT, False),
}

NOT_ANSWERED = frozenset({ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.OUTCOME_UNKNOWN})
"""A part of Darkroom, its database or a peer, gave no answer, or none in time."""

DATABASE_FAILURES = frozenset({ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.OUTCOME_UNKNOWN})
"""The codes that `Database.transaction` raises: the database failed, and the request is not the cause."""

CALLERS_FAULTS = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.INVALID_PARAMETERS,
        ErrorCode.CONTENT_REJECTED,
        ErrorCode.TASK_CANCELLED,
        ErrorCode.SKIPPED,
    }
)
"""What a caller asked for that cannot be had: no fault of a provider's or of ours, and nothing to wake anybody for."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that breaks a rule.

    `field` is the path as a caller wrote it (`parameters.seed`, `input_images[2]`), `rule` a short name of the rule
    for programs, `description` the rule in words for people.
    """

    field: str
    rule: str
    description: str


class GenerationError(Exception):
    """A failure with a code.

    Args:
        code: the cause.
        message: for people; cut to 1,000 characters. Must be free of credentials.
        details: facts for diagnosis; JSON values only, of which 8,000 bytes are kept.
        is_retryable: whether a repeat may help. Default: what the code says.
        retry_after_seconds: the least wait before a repeat, where known.
        violations: the fields at fault, for the two INVALID codes, NOT_FOUND and ALREADY_EXISTS.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        details: Details | None = None,
        *,
        is_retryable: bool | None = None,
        retry_after_seconds: float | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"
        self.details: Details = bounded(details, _DETAILS_LIMIT_BYTES) if details else {}
        self.is_retryable = MAPPINGS[code].is_retryable if is_retryable is None else is_retryable
        self.retry_after_seconds = retry_after_seconds
        self.violations = tuple(violations)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    def to_json(self) -> Details:
        """The form in which a generation's row keeps it: code, message, details, is_retryable."""
        return {
            "code": self.code.value,
            "message": self.message,
            "details": self.details,
            "is_retryable": self.is_retryable,
        }


class InvalidRequest(GenerationError):
    """The caller's request breaks rules.

    Args:
        violations: every broken rule; the first 100 are kept, and the message tells how many more there are.
        code: INVALID_REQUEST or INVALID_PARAMETERS.
        omitted: how many broken rules were found beside `violations`.
    """

    def __init__(
        self,
        violations: Sequence[FieldViolation],
        code: ErrorCode = ErrorCode.INVALID_REQUEST,
        *,
        omitted: int = 0,
    ) -> None:
        kept = violations[:VIOLATIONS_LIMIT]
        omitted += len(violations) - len(kept)
        details: Details = {"fields": [violation.field for violation in kept[:_NAMED_FIELDS]]}
        if omitted:
            details["omitted_violations"] = omitted
        super().__init__(code, _listed(kept, omitted), details, violations=kept)


def _listed(violations: Sequence[FieldViolation], omitted: int) -> str:
    """The broken rules in words, as far as a message has room, and how many are left out."""
    words: list[str] = []
    room = MESSAGE_LIMIT - len("; and 1000000 more")
    for number, violation in enumerate(violations):
        word = f"{violation.field}: {violation.description}"
        room -= len(word) + len("; ")
        if words and room < 0:
            omitted += len(violations) - number
            break
        words.append(word)
    return "; ".join(words) + (f"; and {omitted} more" if omitted else "")


class NotFound(GenerationError):
    """There is no such thing, or it is not the caller's."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(
            ErrorCode.NOT_FOUND,
            what,
            {"fields": [field]},
            violations=(FieldViolation(field, "exists", what),),
        )


class NotAccepted(GenerationError):
    """A call to a provider failed and the provider provably took nothing: it may be repeated without a second bill."""


class OutcomeUnknown(GenerationError):
    """Nobody here can tell whether a change was committed.

    Args:
        message: what was waited for, and how long.
        details: as for GenerationError.
        is_retryable: whether a repeat makes nothing twice: the call carried an idempotency key.
    """

    def __init__(self, message: str, details: Details | None = None, *, is_retryable: bool = False) -> None:
        super().__init__(ErrorCode.OUTCOME_UNKNOWN, message, details, is_retryable=is_retryable)


class StatementEnded(GenerationError):
    """The database answers, and ended one statement: by a timeout, a lock, a deadlock, a conflict or its memory.

    Nothing was committed. Unlike a database that cannot be reached, the statement's own rows may be the cause.

    Args:
        message: what ended it.
        details: as for GenerationError; `sqlstate` is the five characters of Postgres.
        is_slow: whether the statement took long before it was ended.
    """

    def __init__(self, message: str, details: Details | None = None, *, is_slow: bool = False) -> None:
        super().__init__(ErrorCode.SERVICE_UNAVAILABLE, message, details)
        self.is_slow = is_slow


class NotSent(NotAccepted):
    """A request to a provider was held back before any of it left."""

    def __init__(self) -> None:
        super().__init__(
            ErrorCode.INTERNAL_ERROR,
            "The request was not sent, since its dispatcher may have lost its claim; it is sent again.",
            is_retryable=True,
        )


class UnreadableReply(GenerationError):
    """A provider answered, and its reply cannot be read as what the call asks for.

    The provider may have taken, and billed, what was asked for: the reply is kept, and nothing is submitted again.

    Args:
        why: what is missing or wrong in the reply, as a clause without a full stop: `it names no task`.
        reply: the reply for the row: `http_status`, `content_type`, `size_bytes` (of the whole body, in bytes) and
            `body` (text, at most `UNREAD_REPLY_LIMIT` characters, without credentials).
        details: as for GenerationError.
    """

    def __init__(self, why: str, reply: Details, details: Details | None = None) -> None:
        super().__init__(ErrorCode.PROVIDER_ERROR, f"The provider's reply cannot be read: {why}.", details)
        self.why = why
        self.reply = reply


UNREAD_REPLY_LIMIT = 16_384
"""Characters of an unreadable reply that are kept."""
