"""A `GenerationError` crosses gRPC intact: as a status with `google.rpc` details, and back.

Source of the details: google/rpc/error_details.proto (ErrorInfo, RetryInfo, BadRequest).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from typing import NoReturn, TypeVar, cast

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from libs.common.details import bounded
from libs.common.errors import MAPPINGS, ErrorCode, FieldViolation, GenerationError
from libs.common.rpc.structs import from_struct, to_struct

log = structlog.get_logger()
Answer = TypeVar("Answer")
DOMAIN = "darkroom"
# An error is a header of the answer, and gRPC refuses headers of more than 8 KiB at random: what is 4,500 bytes here
# is 6,000 as base64, beside the message as text. Source: grpc.max_metadata_size in grpc/impl/channel_arg_names.h.
_STATUS_LIMIT_BYTES = 4_500
_MESSAGE_LIMIT_BYTES = 1_200
_DETAILS_LIMIT_BYTES = 1_500
_METADATA_CHARACTERS = 200
_DETAIL_LIMIT = 500
# Tags and lengths, and the name of the type, around a message within another.
_PACKING_BYTES = 64

_FALLBACK: dict[grpc.StatusCode, ErrorCode] = {
    grpc.StatusCode.UNAVAILABLE: ErrorCode.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.OUTCOME_UNKNOWN,
    grpc.StatusCode.UNIMPLEMENTED: ErrorCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND: ErrorCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.AUTHENTICATION_FAILED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS: ErrorCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.RATE_LIMITED,
}
# The texts of gRPC name its internals; callers get what the status means for them.
_WORDS: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "A part of Darkroom cannot be reached.",
    grpc.StatusCode.DEADLINE_EXCEEDED: "A part of Darkroom did not answer in time.",
    grpc.StatusCode.UNIMPLEMENTED: "There is no such RPC.",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Too many calls are in progress, or the message is too large.",
}


def to_status(error: GenerationError) -> Status:
    """The error as a rich status."""
    details = bounded(error.details, _DETAILS_LIMIT_BYTES)
    info = ErrorInfo(
        reason=error.code.value,
        domain=DOMAIN,
        metadata={
            "is_retryable": "true" if error.is_retryable else "false",
            **{key: _as_text(value) for key, value in details.items()},
        },
    )
    status = Status(code=_number(MAPPINGS[error.code].grpc_status), message=_in_header(error.message))
    _add(status, info)
    if any(not isinstance(value, str) for value in details.values()):
        _add(status, to_struct(details))
    if error.retry_after_seconds is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_seconds * 1_000))
        _add(status, retry)
    if error.violations:
        _add(status, _bad_request(error.violations, _STATUS_LIMIT_BYTES - status.ByteSize() - _PACKING_BYTES))
    return status


def _bad_request(violations: Sequence[FieldViolation], room: int) -> BadRequest:
    """As many of the violations as have room, in bytes."""
    bad_request = BadRequest()
    for violation in violations:
        told = BadRequest.FieldViolation(
            field=violation.field[:_DETAIL_LIMIT],
            description=violation.description[:_DETAIL_LIMIT],
            reason=violation.rule.upper(),
        )
        room -= told.ByteSize() + _PACKING_BYTES
        if room < 0:
            break
        bad_request.field_violations.append(told)
    return bad_request


def _in_header(message: str) -> str:
    """As much of a message as a header has room for: gRPC writes each byte beyond ASCII as three characters."""
    size = 0
    for end, character in enumerate(message):
        size += 1 if " " <= character <= "~" and character != "%" else 3 * len(character.encode(errors="replace"))
        if size > _MESSAGE_LIMIT_BYTES:
            return message[:end]
    return message


def from_rpc_error(error: grpc.aio.AioRpcError, *, changes_nothing: bool = False) -> GenerationError:
    """What a peer's status says, as it was raised there; a status without our details becomes the nearest code.

    Args:
        error: what the call raised.
        changes_nothing: whether the RPC is declared to, so that a deadline of the caller's own is DEADLINE_EXCEEDED and
            not OUTCOME_UNKNOWN.
    """
    status = rpc_status.from_call(cast("grpc.Call", error))  # the stubs know only the synchronous Call
    info, retry, bad_request, whole = ErrorInfo(), RetryInfo(), BadRequest(), Struct()
    for detail in status.details if status else ():
        for message in (info, retry, bad_request, whole):
            detail.Unpack(message)
    if info.domain != DOMAIN or info.reason not in ErrorCode.__members__:
        code = _FALLBACK.get(error.code(), ErrorCode.INTERNAL_ERROR)
        if code is ErrorCode.OUTCOME_UNKNOWN and changes_nothing:
            code = ErrorCode.DEADLINE_EXCEEDED
        log.info("an RPC failed without details of ours", status=error.code().name, text=error.details())
        return GenerationError(code, _WORDS.get(error.code(), "A part of Darkroom failed; the log says why."))
    metadata = dict(info.metadata)
    return GenerationError(
        ErrorCode(info.reason),
        error.details() or "",
        is_retryable=metadata.pop("is_retryable", "false") == "true",
        details=from_struct(whole) if whole.fields else metadata,
        retry_after_seconds=retry.retry_delay.ToMilliseconds() / 1_000 if retry.HasField("retry_delay") else None,
        violations=[
            FieldViolation(violation.field, violation.reason.lower(), violation.description)
            for violation in bad_request.field_violations
        ],
    )


async def answer_of(call: Awaitable[Answer], *, changes_nothing: bool = False) -> Answer:
    """What an RPC answers. Raises the GenerationError that `from_rpc_error` makes of its status."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, changes_nothing=changes_nothing) from error


async def abort(context: grpc.aio.ServicerContext[object, object], error: GenerationError) -> NoReturn:
    """End an RPC with the error."""
    status = rpc_status.to_status(to_status(error))
    # An end with a status leaves out what was set before it.
    told = (*(status.trailing_metadata or ()), *(context.trailing_metadata() or ()))
    await context.abort(status.code, status.details, told)
    raise AssertionError("abort raises")


def _add(
    status: Status,
    detail: ErrorInfo | RetryInfo | BadRequest | Struct,
) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def _number(code: grpc.StatusCode) -> int:
    return int(Code.Value(code.name))


def _as_text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text[:_METADATA_CHARACTERS]
