"""Maps failures of object storage to `GenerationError`, with the code and the message of S3.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. Other servers have codes of their own
(MinIO: XMinioStorageFull; Ceph: QuotaExceeded), which are kept as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

from libs.common.errors import Details, ErrorCode, GenerationError

_CODE_LIMIT, _MESSAGE_LIMIT = 100, 300
_CODE = re.compile(r"[^A-Za-z0-9._-]")
# Of a URL the server's answer may repeat the signature, which stands in the query.
_QUERY = re.compile(r"\?\S+")


def storage_error(error: Exception, action: str, bucket: str, *, secrets: tuple[str, ...] = ()) -> GenerationError:
    """The error of a request to object storage that failed, retryable.

    Args:
        error: what boto3 raised.
        action: what was asked for, in S3's words (PutObject), where `error` does not say.
        bucket: the bucket.
        secrets: what must not stand in the error.

    `details` have `cause`, `action` and `bucket`, and of S3's own answer `s3_code`, `s3_message` and `http_status`.
    """
    found = _answer(error)
    code, answer = type(error).__name__, dict[str, Any]()
    if found is not None:
        code, action, answer = _said(found)
    message = _without(str(answer.get("s3_message", "")), secrets)
    if message:
        answer["s3_message"] = message
    words = f"Object storage request failed: {code} on {action} (bucket {bucket})"
    details: Details = {
        "cause": type(error).__name__ if found is None else "ClientError",
        "action": action,
        "bucket": bucket,
        **answer,
    }
    return GenerationError(ErrorCode.S3_UPLOAD_FAILED, f"{words}: {message}" if message else f"{words}.", details)


def s3_code(error: BaseException | None) -> str:
    """The code of S3's answer; empty where an error is none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _answer(error: BaseException | None) -> ClientError | None:
    """The answer of S3 that led to an error, if one came."""
    for _ in range(5):
        if error is None or isinstance(error, ClientError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _said(error: ClientError) -> tuple[str, str, dict[str, Any]]:
    fault: Mapping[str, Any] = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = _CODE.sub("", str(fault.get("Code") or status or "Unknown"))[:_CODE_LIMIT]
    answer: dict[str, Any] = {"s3_code": code, "s3_message": str(fault.get("Message") or "")}
    if isinstance(status, int):
        answer["http_status"] = status
    return code, error.operation_name, answer


def _without(message: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        message = message.replace(secret, "***")
    return _QUERY.sub("", " ".join(message.split()))[:_MESSAGE_LIMIT]
