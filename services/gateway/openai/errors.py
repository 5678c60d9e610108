"""Errors as OpenAI writes them, so that its clients raise the exceptions that their callers know.

What a request did wrong and what became of a generation are told apart: a provider that refuses our credentials is no
fault of the caller's key. Once there is a generation, or may be one, no client is to retry automatically, for that
would be another generation and another bill: the answer has a status that clients do not repeat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from aiohttp import web

from libs.common.errors import MAPPINGS, NOT_ANSWERED, ErrorCode, GenerationError
from services.gateway.rest.problems import http_detail, http_headers

GENERATION_ID_HEADER = "x-darkroom-generation-id"
MADE = web.RequestKey("made", str)
"""Where a handler notes the id of the generation that it has made: each answer from then on names it."""
# Obeyed by OpenAI's own clients before any status. Source: _base_client.py of openai-python.
SHOULD_RETRY_HEADER = "x-should-retry"
_FINAL = HTTPStatus.FAILED_DEPENDENCY
_REPEATED = frozenset({408, 409, 425, 429})
"""What clients repeat by themselves, beside every 5xx; most know no header that says otherwise.

Sources: APICallError of the Vercel AI SDK (408, 409, 429, 5xx), _should_retry of openai-python (the same),
`curl --retry` (408, 429, 500, 502, 503, 504), RETRY_AFTER_STATUS_CODES of urllib3 (413, 429, 503); RFC 8470 for 425.
"""


class Shape(NamedTuple):
    """The status, and OpenAI's words for the type and the code."""

    status: int
    type: str
    code: str


_INVALID, _SERVER, _RATE = "invalid_request_error", "server_error", "rate_limit_error"
_OF_REQUESTS = {
    ErrorCode.AUTHENTICATION_FAILED: Shape(401, _INVALID, "invalid_api_key"),
    ErrorCode.PERMISSION_DENIED: Shape(403, "permission_error", "permission_denied"),
    ErrorCode.QUOTA_EXCEEDED: Shape(429, "insufficient_quota", "insufficient_quota"),
    ErrorCode.RATE_LIMITED: Shape(429, _RATE, "rate_limit_exceeded"),
    ErrorCode.CONTENT_REJECTED: Shape(400, _INVALID, "content_policy_violation"),
}
_OF_GENERATIONS = {
    ErrorCode.INVALID_REQUEST: Shape(400, _INVALID, "invalid_request"),
    ErrorCode.INVALID_PARAMETERS: Shape(400, _INVALID, "invalid_parameters"),
    ErrorCode.CONTENT_REJECTED: Shape(400, _INVALID, "content_policy_violation"),
    ErrorCode.TASK_CANCELLED: Shape(_FINAL, "conflict_error", "task_cancelled"),
    ErrorCode.RATE_LIMITED: Shape(_FINAL, _RATE, "rate_limit_exceeded"),
}
_HTTP_CODES = {404: "unknown_url", 405: "method_not_allowed"}
_PARAMS = {
    "model_identifier": "model",
    "number_of_outputs": "n",
    "input_images": "image",
    "user_id": "user",
    "parameters.size_or_ratio": "size",
    "parameters.aspect_ratio": "size",
    "parameters.duration": "seconds",
}


def shape_of(error: GenerationError) -> Shape:
    """How a refused request is told."""
    if error.code in _OF_REQUESTS:
        return _OF_REQUESTS[error.code]
    status = MAPPINGS[error.code].http_status
    kind = _SERVER if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _INVALID
    return Shape(status.value, kind, error.code.value.lower())


def shape_of_failure(code: ErrorCode) -> Shape:
    """How a generation that failed is told."""
    return _OF_GENERATIONS.get(code, Shape(_FINAL, _SERVER, code.value.lower()))


def refused(error: GenerationError, made: str | None = None) -> web.Response:
    """The answer to a request that was refused, or that failed.

    Args:
        error: why.
        made: the id of the generation that the request had made before it failed; clients must not send it again.
    """
    if made is not None and error.code in NOT_ANSWERED:
        return _unread(made, error)
    if made is not None:
        return answer(_final(shape_of(error)), error.message, headers=_of_generation(made), generation_id=made)
    headers: dict[str, str] = {}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_seconds))
    if not error.is_retryable:
        headers[SHOULD_RETRY_HEADER] = "false"
    first = error.violations[0].field if error.violations else None
    shape = shape_of(error)
    if error.code is ErrorCode.OUTCOME_UNKNOWN and not error.is_retryable:
        shape = _final(shape)
    return answer(shape, error.message, param=_param(first), headers=headers)


def _final(shape: Shape) -> Shape:
    """The same with a status that clients do not repeat."""
    is_repeated = shape.status in _REPEATED or shape.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return shape._replace(status=_FINAL) if is_repeated else shape


def not_found(error: GenerationError) -> web.Response:
    """The answer where there is no such thing, or it is not the caller's."""
    is_model = any(violation.field == "model_identifier" for violation in error.violations)
    shape = Shape(404, _INVALID, "model_not_found" if is_model else "not_found")
    return answer(shape, error.message, param="model" if is_model else "id")


def refused_by_http(error: web.HTTPException) -> web.Response:
    """The answer to what HTTP itself refuses: an unknown path or method, a body that is too large or too slow."""
    code = _HTTP_CODES.get(error.status, "invalid_request")
    return answer(Shape(error.status, _INVALID, code), http_detail(error), headers=http_headers(error))


def _unread(generation_id: str, error: GenerationError) -> web.Response:
    """The answer where a part of Darkroom did not answer: not that of a request that created nothing."""
    message = (
        f"The generation was created, and reading its result failed: {error.message} It goes on: ask GET "
        f"/api/external/generation/{generation_id}. Sending the request again would make another one."
    )
    shape = Shape(_FINAL, "timeout_error", "generation_pending")
    return answer(shape, message, headers=_of_generation(generation_id), generation_id=generation_id)


def failed(generation_id: str, code: ErrorCode, message: str) -> web.Response:
    """The answer where a generation did not succeed."""
    return answer(shape_of_failure(code), message, headers=_of_generation(generation_id), generation_id=generation_id)


def still_running(generation_id: str, seconds: float) -> web.Response:
    """The answer where the bound of the wait came first. Nothing is lost: the generation goes on."""
    message = (
        f"The image was not ready within {seconds:g} s. It goes on: ask GET /api/external/generation/{generation_id}, "
        "or have the end delivered to a callback. Sending the request again would make another one."
    )
    shape = Shape(_FINAL, "timeout_error", "generation_pending")
    return answer(shape, message, headers=_of_generation(generation_id), generation_id=generation_id)


def answer(
    shape: Shape,
    message: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    generation_id: str | None = None,
) -> web.Response:
    """An error as OpenAI writes it."""
    error = {"message": message, "type": shape.type, "param": param, "code": shape.code}
    if generation_id is not None:
        error["generation_id"] = generation_id
    body = json.dumps({"error": error}, ensure_ascii=False).encode(errors="replace")
    return web.Response(body=body, status=shape.status, content_type="application/json", headers=headers)


def _of_generation(generation_id: str) -> dict[str, str]:
    return {GENERATION_ID_HEADER: generation_id, SHOULD_RETRY_HEADER: "false"}


def _param(field: str | None) -> str | None:
    if field is None:
        return None
    path = field.partition("[")[0]
    return _PARAMS.get(path, path.removeprefix("parameters."))
