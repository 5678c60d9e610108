"""Errors as problem documents (RFC 9457), with our code, whether a repeat may help, and the fields at fault."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from libs.common.errors import MAPPINGS, ErrorCode, GenerationError
from libs.common.rpc.context import current_request_id

CONTENT_TYPE = "application/problem+json"
_TOLD_HEADERS = {hdrs.ALLOW, hdrs.RETRY_AFTER, hdrs.CONTENT_RANGE}


def problem(error: GenerationError, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document. `names`: how the caller wrote fields, by their names in the proto."""
    status = MAPPINGS[error.code].http_status
    return {
        "type": f"urn:darkroom:error:{error.code.value}",
        "title": status.phrase,
        "status": status.value,
        "detail": error.message,
        "code": error.code.value,
        "isRetryable": error.is_retryable,
        "requestId": current_request_id(),
        "details": error.details,
        "violations": [
            {
                "field": _as_written(violation.field, names or {}),
                "rule": violation.rule,
                "description": violation.description,
            }
            for violation in error.violations
        ],
    }


def problem_response(error: GenerationError, names: Mapping[str, str] | None = None) -> web.Response:
    """The answer."""
    document = problem(error, names)
    return plain_problem(document, headers_of(error))


def plain_problem(document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
    """An answer with a document that is ready."""
    return web.Response(
        body=json.dumps(document, ensure_ascii=False).encode(errors="replace"),
        status=document["status"],
        content_type=CONTENT_TYPE,
        headers=headers,
    )


def headers_of(error: GenerationError) -> dict[str, str]:
    """What goes with an error beside its document."""
    headers: dict[str, str] = {}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(math.ceil(error.retry_after_seconds))
    if error.code is ErrorCode.AUTHENTICATION_FAILED:
        headers["www-authenticate"] = "Bearer"
    return headers


def http_problem(status: int, title: str, detail: str) -> dict[str, Any]:
    """A document for what HTTP itself refuses, before any code of ours."""
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "code": "INVALID_REQUEST" if status not in {404, 405} else "NOT_FOUND",
        "isRetryable": False,
        "requestId": current_request_id(),
        "details": {},
        "violations": [],
    }


def http_detail(error: web.HTTPException) -> str:
    """What HTTP itself refuses, in words for people."""
    if error.status == 404:
        return "There is no such route; GET /api/openapi.json lists them."
    if error.status == 413:
        return "The body is too large."
    if error.status == 417:
        return "The header Expect may only be 100-continue."
    return (error.text or error.reason or "").strip()[:500]


def http_headers(error: web.HTTPException) -> dict[str, str]:
    """What goes with what HTTP itself refuses: which methods there are, when to come again, how long a file is."""
    return {name: value for name, value in error.headers.items() if name in _TOLD_HEADERS}


def _as_written(path: str, names: Mapping[str, str]) -> str:
    """`input_images[2]` as `inputImages[2]`, unless the caller wrote it as the proto does."""
    for end, character in enumerate(path):
        if character in ".[":
            return names.get(path[:end], _camel(path[:end])) + path[end:]
    return names.get(path, _camel(path))


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
