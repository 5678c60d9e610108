"""The error of a call: the code and the fields at fault, read from the gRPC status."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar, cast

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

Answer = TypeVar("Answer")


# The codes of statuses without details, which gRPC or another server sent.
_CODES = {
    grpc.StatusCode.UNAVAILABLE: "SERVICE_UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "OUTCOME_UNKNOWN",
}
_RETRYABLE = {grpc.StatusCode.UNAVAILABLE}


class DarkroomError(Exception):
    """A call was refused, or a generation did not succeed.

    `code` is a word of `darkroom.common.v1.ErrorCode`: OUTCOME_UNKNOWN says that the call may have been carried out.
    `fields` has a description for each field at fault; `retry_after_seconds` is the minimum wait before a repeat, if
    the server names one.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        is_retryable: bool = False,
        fields: dict[str, str] | None = None,
        retry_after_seconds: float | None = None,
        generation_id: str = "",
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.is_retryable = is_retryable
        self.fields = fields or {}
        self.retry_after_seconds = retry_after_seconds
        self.generation_id = generation_id


def from_rpc_error(error: grpc.aio.AioRpcError) -> DarkroomError:
    """Return the error of a call.

    A status without details is gRPC's own: UNAVAILABLE is called retryable, which holds for calls that change nothing
    or carry an idempotency key; a deadline of the client's own that has passed is OUTCOME_UNKNOWN.
    """
    info, retry, bad = ErrorInfo(), RetryInfo(), BadRequest()
    status = rpc_status.from_call(cast("grpc.Call", error))  # the stubs know only the synchronous Call
    for detail in status.details if status else ():
        for message in (info, retry, bad):
            detail.Unpack(message)
    is_retryable = info.metadata.get("is_retryable") == "true" if info.reason else error.code() in _RETRYABLE
    return DarkroomError(
        info.reason or _CODES.get(error.code(), error.code().name),
        error.details() or "no details",
        is_retryable=is_retryable,
        fields={violation.field: violation.description for violation in bad.field_violations},
        retry_after_seconds=retry.retry_delay.ToMilliseconds() / 1_000 if retry.HasField("retry_delay") else None,
    )


async def answer_of(call: Awaitable[Answer]) -> Answer:
    """What a call answers. Raises DarkroomError."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
