"""Messages of `darkroom.common.v1`, which several services answer with, from what the rows keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from darkroom.common.v1 import common_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.rpc.structs import to_struct

UrlOf = Callable[[str], str]
"""From an object's key to a URL that reads it."""


def error_message(error: dict[str, Any]) -> common_pb2.GenerationError:
    """A row's error."""
    return common_pb2.GenerationError(
        code=common_pb2.ErrorCode.Value(f"ERROR_CODE_{error['code']}"),
        message=error["message"],
        details=to_struct(error["details"]),
        is_retryable=error["is_retryable"],
    )


def output_messages(outputs: Iterable[dict[str, Any]], url_of: UrlOf) -> list[common_pb2.Output]:
    """A row's outputs, each with a URL to read it from."""
    return [
        common_pb2.Output(
            type=output["type"],
            url=url_of(output["object_key"]) if "object_key" in output else output["url"],
            content_type=output.get("content_type", ""),
            size_bytes=output.get("size_bytes", 0),
            sha256=output.get("sha256", ""),
        )
        for output in outputs
    ]


def timestamp(time: datetime | None) -> Timestamp | None:
    """A point in time, or None."""
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message
