"""A `GenerationError` crosses gRPC intact: as a status with `google.rpc` details, and back.

Source of the details: google/rpc/error_details.proto (ErrorInfo, RetryInfo, BadRequest).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import NoReturn, TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from libs.common.errors import MAPPINGS, ErrorCode, FieldViolation, GenerationError
from libs.common.rpc.structs import from_struct, to_struct

Answer = TypeVar("Answer")
DOMAIN = "darkroom"
_DETAIL_LIMIT = 1_000
_VIOLATIONS_LIMIT_BYTES = 2_000

_FALLBACK: dict[grpc.StatusCode, ErrorCode] = {
    grpc.StatusCode.UNAVAILABLE: ErrorCode.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.SERVICE_UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: ErrorCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND: ErrorCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.AUTHENTICATION_FAILED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
    grpc.StatusCode.ALREADY_EXISTS: ErrorCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.RATE_LIMITED,
}


def to_status(error: GenerationError) -> Status:
    """The error as a rich status."""
    info = ErrorInfo(
        reason=error.code.value,
        domain=DOMAIN,
        metadata={
            "is_retryable": "true" if error.is_retryable else "false",
            **{key: _as_text(value) for key, value in error.details.items()},
        },
    )
    status = Status(code=_number(MAPPINGS[error.code].grpc_status), message=error.message)
    _add(status, info)
    if any(not isinstance(value, str) for value in error.details.values()):
        _add(status, to_struct(error.details))
    if error.retry_after_seconds is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_seconds * 1_000))
        _add(status, retry)
    if error.violations:
        bad_request = BadRequest()
        for violation in error.violations:
            # They travel as a header of the answer, which peers take up to 8 KiB.
            if bad_request.ByteSize() > _VIOLATIONS_LIMIT_BYTES:
                break
            bad_request.field_violations.add(
                field=violation.field[:_DETAIL_LIMIT],
                description=violation.description[:_DETAIL_LIMIT],
                reason=violation.rule.upper(),
            )
        _add(status, bad_request)
    return status


def from_rpc_error(error: grpc.aio.AioRpcError) -> GenerationError:
    """What a peer's status says, as it was raised there; a status without our details becomes the nearest code."""
    status = rpc_status.from_call(cast("grpc.Call", error))  # the stubs know only the synchronous Call
    info, retry, bad_request, whole = ErrorInfo(), RetryInfo(), BadRequest(), Struct()
    for detail in status.details if status else ():
        for message in (info, retry, bad_request, whole):
            detail.Unpack(message)
    if info.domain != DOMAIN or info.reason not in ErrorCode.__members__:
        return GenerationError(_FALLBACK.get(error.code(), ErrorCode.INTERNAL_ERROR), error.details() or "no details")
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


async def answer_of(call: Awaitable[Answer]) -> Answer:
    """What an RPC answers. Raises the GenerationError that its status carries."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


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
    return text[:_DETAIL_LIMIT]
