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

MESSAGE_LIMIT = 1_000

Details = dict[str, Any]


class ErrorCode(StrEnum):
    """Why something failed. The same words stand in `darkroom.common.v1.ErrorCode`, where each is explained."""

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
}


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
        details: facts for whoever looks into it; JSON values only.
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
        self.details: Details = details or {}
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
    """The caller's request breaks rules; all of them are listed."""

    def __init__(self, violations: Sequence[FieldViolation], code: ErrorCode = ErrorCode.INVALID_REQUEST) -> None:
        listed = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(code, listed, {"fields": [violation.field for violation in violations]}, violations=violations)


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
