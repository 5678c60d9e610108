"""How a fault looks on the wire, the same for every vendor but for the body of its errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from sandbox.simulators.behaviour import Behaviour, Fault, FaultKind, Operation

ErrorReply = Callable[[int, str], web.Response]
"""From an HTTP status and a text to the vendor's error reply."""

_FOR_EVER_SECONDS = 3_600
_TEXTS = {
    FaultKind.BAD_REQUEST: "The request is malformed.",
    FaultKind.TOO_MANY_REQUESTS: "Too many requests.",
    FaultKind.SERVER_ERROR: "Internal server error.",
    FaultKind.UNAVAILABLE: "The service is overloaded.",
}


async def strike(
    request: web.Request, behaviour: Behaviour, operation: Operation, error_reply: ErrorReply, *, after: bool = False
) -> web.StreamResponse | None:
    """The reply of the fault that strikes, or None if all goes well."""
    fault = behaviour.fault(operation, after=after)
    return await _reply(request, fault, error_reply) if fault else None


async def _reply(request: web.Request, fault: Fault, error_reply: ErrorReply) -> web.StreamResponse:
    if fault.kind in _TEXTS:
        reply = error_reply(int(fault.kind), _TEXTS[fault.kind])
        if fault.retry_after_seconds is not None:
            reply.headers["retry-after"] = f"{fault.retry_after_seconds:g}"
        return reply
    match fault.kind:
        case FaultKind.TIMEOUT:
            await asyncio.sleep(_FOR_EVER_SECONDS)
        case FaultKind.RESET:
            if request.transport is not None:
                request.transport.abort()
        case FaultKind.HTML:
            return web.Response(text="<html><body>502 Bad Gateway</body></html>", content_type="text/html")
        case FaultKind.TRUNCATED:
            return web.Response(body=b'{"id": "trunc', content_type="application/json")
        case FaultKind.ERROR_IN_OK:
            return web.json_response({"error": {"message": "用户额度不足", "type": "new_api_error", "code": "quota"}})
        case FaultKind.GONE:
            return web.Response(status=404, text="gone")
        case FaultKind.GARBAGE:
            return web.Response(body=b"this is no image", content_type="image/png")
    return error_reply(500, "Internal server error.")
