"""What happens around every HTTP request: its id, its problem document, CORS, packing, a count and a log line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

import structlog
from aiohttp import hdrs, web

from libs.common import metrics
from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.context import REQUEST_ID_KEY, begin_request, current_request_id
from services.gateway.rest.problems import http_problem, plain_problem, problem_response

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Any
_PACK_ABOVE_BYTES = 1_024
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
    """Turns whatever is raised into a problem document."""
    try:
        return await handler(request)
    except GenerationError as error:
        return problem_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        kept = {name: value for name, value in error.headers.items() if name in {hdrs.ALLOW, hdrs.RETRY_AFTER}}
        return plain_problem(http_problem(error.status, error.reason, _detail(error)), kept)
    except ConnectionResetError:
        raise
    except Exception:
        log.exception("http handler failed")
        return problem_response(GenerationError(ErrorCode.INTERNAL_ERROR, "Darkroom failed; the log says why."))


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


def _detail(error: web.HTTPException) -> str:
    if error.status == 404:
        return "There is no such route; GET /api/openapi.json lists them."
    if error.status == 413:
        return "The body is too large."
    return (error.text or error.reason or "").strip()[:500]
