"""What happens around every HTTP request: its id, its problem document, CORS, packing, a count and a log line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web

from libs.common import metrics
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.context import REQUEST_ID_KEY, begin_request, current_request_id
from libs.common.rpc.credentials import AUTHORIZATION
from services.gateway.authentication import API_KEY_HEADER
from services.gateway.failures import BROKEN_BODY, PACKINGS, broken_body
from services.gateway.openai.errors import refused, refused_by_http
from services.gateway.rest.problems import http_detail, http_headers, http_problem, plain_problem, problem_response

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Any
_PACK_ABOVE_BYTES = 1_024
_OPENAI_PATHS = "/v1/"
_KEY_HEADERS = frozenset({AUTHORIZATION, API_KEY_HEADER})
_CORS_METHODS = "GET, POST, PATCH, DELETE"
_CORS_HEADERS = "authorization, content-type, idempotency-key, last-event-id, x-api-key, x-request-id"
_CORS_EXPOSED = "retry-after, x-request-id, x-darkroom-generation-id"
_CORS_MAX_AGE_SECONDS = "600"


@web.middleware
async def request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Takes the caller's request id or makes one; it goes back with the answer."""
    structlog.contextvars.clear_contextvars()
    begin_request(request.headers.get(REQUEST_ID_KEY))
    return await handler(request)


def request_headers() -> dict[str, str]:
    """What every answer carries."""
    return {
        REQUEST_ID_KEY: current_request_id(),
        "x-content-type-options": "nosniff",
        hdrs.CACHE_CONTROL: "no-store",
    }


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts and times each request, and logs it."""
    started = perf_counter()
    status = 499
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        seconds = perf_counter() - started
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "(none)"
        method = request.method if request.method in hdrs.METH_ALL else "(other)"
        metrics.HTTP_SECONDS.labels(method, route, str(status)).observe(seconds)
        log.info("http", method=method, route=route, status=status, duration_ms=round(seconds * 1_000, 1))


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns whatever is raised into a problem document; into OpenAI's error below /v1."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return refusal_of(request, error)
    except ConnectionResetError:
        raise
    except GenerationError as error:
        failure = error
    except BROKEN_BODY:
        failure = broken_body()
    except Exception:
        log.exception("http handler failed")
        failure = GenerationError(ErrorCode.INTERNAL_ERROR, "Darkroom failed; the log says why.")
    return refused(failure) if _is_openai(request) else problem_response(failure)


def refusal_of(request: web.BaseRequest, error: web.HTTPException) -> web.Response:
    """The answer to what HTTP itself refuses, in the shape of the path that was asked for."""
    return refusal(error, is_openai=_is_openai(request))


def refusal(error: web.HTTPException, *, is_openai: bool) -> web.Response:
    """The same, as OpenAI's error or as a problem document."""
    if is_openai:
        return refused_by_http(error)
    return plain_problem(http_problem(error.status, error.reason, http_detail(error)), http_headers(error))


def _is_openai(request: web.BaseRequest) -> bool:
    return request.path.startswith(_OPENAI_PATHS)


@web.middleware
async def readable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses what no handler can read: other HTTP than 1.0 and 1.1, headers that are not UTF-8, unknown packings."""
    if request.version not in {HttpVersion10, HttpVersion11}:
        raise web.HTTPBadRequest(text="HTTP/1.0 or HTTP/1.1 is needed.")
    for name, value in request.headers.items():
        # Keys that cannot be read are wrong keys, and are answered with a delay.
        if name.lower() not in _KEY_HEADERS and not _is_utf8(value):
            raise web.HTTPBadRequest(text=f"The header {name[:100]} must be ASCII, or UTF-8.")
    if not _is_utf8(request.raw_path) or not _is_utf8_escaped(request.raw_path):
        raise web.HTTPBadRequest(text="The path and the query must be ASCII, or percent-encoded UTF-8.")
    packing = request.headers.get(hdrs.CONTENT_ENCODING, "").strip().lower()
    if packing not in PACKINGS:
        raise unknown_packing()
    return await handler(request)


def unknown_packing() -> web.HTTPException:
    """The error for a content encoding that is none of PACKINGS."""
    return web.HTTPUnsupportedMediaType(text="The content-encoding must be gzip, deflate or identity.")


def _is_utf8(text: str) -> bool:
    # aiohttp keeps what is not UTF-8 as lone surrogates.
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _is_utf8_escaped(text: str) -> bool:
    # What is not would be read as U+FFFD, which is another filter or id than was sent.
    try:
        unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return False
    return True


@web.middleware
async def pack(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Packs larger answers for whoever takes them so."""
    response = await handler(request)
    if isinstance(response, web.Response) and isinstance(response.body, bytes | bytearray):
        is_text = response.content_type.endswith("json") or response.content_type.startswith("text/")
        if is_text and len(response.body) > _PACK_ABOVE_BYTES:
            response.enable_compression()
    return response


def cors(origins: Sequence[str]) -> Middleware:
    """Answers what browsers ask before they call. Source: https://fetch.spec.whatwg.org/#http-cors-protocol."""

    @web.middleware
    async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        asks = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        if not asks or not _is_allowed(request, origins):
            return await handler(request)
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: _CORS_METHODS,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: _CORS_HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: _CORS_MAX_AGE_SECONDS,
            },
        )

    return preflight


def cors_headers(request: web.Request, origins: Sequence[str]) -> dict[str, str]:
    """What lets browsers on these origins read the answer.

    Keys come in a header that a script sets, never as a cookie, so credentials stay off.
    """
    if not _is_allowed(request, origins):
        return {}
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: "*" if "*" in origins else request.headers[hdrs.ORIGIN],
        hdrs.ACCESS_CONTROL_EXPOSE_HEADERS: _CORS_EXPOSED,
        hdrs.VARY: hdrs.ORIGIN,
    }


def _is_allowed(request: web.Request, origins: Sequence[str]) -> bool:
    origin = request.headers.get(hdrs.ORIGIN, "")
    return bool(origin) and ("*" in origins or origin in origins)
