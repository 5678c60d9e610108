"""How a fault looks on the wire, the same for every vendor but for the body of its errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiohttp import web

from sandbox.simulators.behaviour import Behaviour, Chance, Fault, FaultKind

ErrorReply = Callable[[int, str], web.Response]
"""From an HTTP status and a text to the vendor's error reply."""

_FOR_EVER_SECONDS = 3_600
_REFUSALS: Mapping[FaultKind, str] = {
    FaultKind.BAD_REQUEST: "The request is malformed.",
    FaultKind.UNAUTHORIZED: "The credentials are not valid.",
    FaultKind.FORBIDDEN: "The account may not do this.",
    FaultKind.NOT_FOUND: "There is no such task.",
    FaultKind.REQUEST_TIMEOUT: "The request took too long.",
    FaultKind.NO_LONGER_THERE: "The task is gone.",
    FaultKind.TOO_MANY_REQUESTS: "Too many requests.",
    FaultKind.SERVER_ERROR: "Internal server error.",
    FaultKind.BAD_GATEWAY: "Bad gateway.",
    FaultKind.UNAVAILABLE: "The service is overloaded.",
}


class _Raw(NamedTuple):
    status: int
    content_type: str
    body: bytes


_OUT_OF_CREDIT = '{"error": {"message": "用户额度不足", "type": "new_api_error", "code": "quota"}}'
_SOME_ID = "x"
_UNHEARD_OF = {
    "id": _SOME_ID,
    "status": "warming up",
    "data": {
        "task_id": _SOME_ID,
        "task_status": "warming up",
        "taskId": _SOME_ID,
        "generations": [{"status": "warming up"}],
    },
}
_RAW: Mapping[FaultKind, _Raw] = {
    FaultKind.HTML: _Raw(200, "text/html", b"<html><body>502 Bad Gateway</body></html>"),
    FaultKind.TRUNCATED: _Raw(200, "application/json", b'{"id": "trunc'),
    FaultKind.ERROR_IN_OK: _Raw(200, "application/json", _OUT_OF_CREDIT.encode()),
    FaultKind.GONE: _Raw(404, "text/plain", b"gone"),
    FaultKind.EMPTY: _Raw(200, "application/json", b"{}"),
    FaultKind.NOTHING: _Raw(200, "application/json", b""),
    # Whichever vendor's reply it stands for, its state is a word that nobody has heard of.
    FaultKind.UNKNOWN_STATE: _Raw(200, "application/json", json.dumps(_UNHEARD_OF).encode()),
    FaultKind.GARBAGE: _Raw(200, "image/png", b"this is no image"),
}


async def strike(
    request: web.Request, behaviour: Behaviour, chance: Chance, error_reply: ErrorReply, *, after: bool = False
) -> web.StreamResponse | None:
    """The reply of the fault that strikes a submit, or None if all goes well."""
    fault = behaviour.fault("submit", chance, after=after)
    return await reply_with(fault, request, error_reply) if fault else None


async def reply_with(
    fault: Fault, request: web.Request, error_reply: ErrorReply, *, task_id: str = _SOME_ID
) -> web.StreamResponse:
    """The reply of a fault; `task_id`: the task that was asked for, which a reply with a state names."""
    if fault.kind in _REFUSALS:
        reply = error_reply(int(fault.kind), _REFUSALS[fault.kind])
        if fault.retry_after_seconds is not None:
            reply.headers["retry-after"] = f"{fault.retry_after_seconds:g}"
        return reply
    if fault.kind in _RAW:
        raw = _RAW[fault.kind]
        body = raw.body.replace(json.dumps(_SOME_ID).encode(), json.dumps(task_id).encode())
        return web.Response(status=raw.status, content_type=raw.content_type, body=body)
    if fault.kind is FaultKind.CUT_OFF:
        return await _cut_off(request)
    if fault.kind is FaultKind.TIMEOUT:
        await asyncio.sleep(_FOR_EVER_SECONDS)
    if fault.kind is FaultKind.RESET and request.transport is not None:
        request.transport.abort()
    return error_reply(500, "Internal server error.")


async def _cut_off(request: web.Request) -> web.StreamResponse:
    """A reply that ends before the length that it has announced."""
    reply = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
    await reply.prepare(request)
    await reply.write(b'{"id": "cut')
    if request.transport is not None:
        request.transport.close()
    return reply
