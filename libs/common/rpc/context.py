"""What goes with a call: its metadata, and the request id, which the client or the edge makes.

The request id goes through every RPC, log line and row of a generation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, cast

import grpc
import structlog

from libs.common.ids import new_id

REQUEST_ID_KEY = "x-request-id"
IDEMPOTENCY_KEY_HEADER = "idempotency-key"
_ALLOWED = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)
Context = grpc.aio.ServicerContext[Any, Any]
_metadata: ContextVar[tuple[Context | None, Mapping[str, str]]] = ContextVar("metadata", default=(None, {}))


def metadata_of_context(context: Context) -> Mapping[str, str]:
    """Return the text metadata of a call, by lower-case key. Of a key that comes twice, the last.

    Kept for the rest of the call: gRPC makes the metadata anew each time.
    """
    of, known = _metadata.get()
    if of is not context:
        known = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        _metadata.set((context, known))
    return known


def when_done(context: Context, call: Callable[[], object]) -> None:
    """Have `call` called once the answer of a call is sent, or the call has ended without one."""
    # The stubs have another argument.
    cast("Any", context).add_done_callback(lambda _: call())


def begin_request(given: str | None) -> str:
    """Take on the caller's request id if it is a decent one, else a new one; log lines carry it from here on."""
    request_id = given if given and _ALLOWED.fullmatch(given) else new_id("req")
    _current.set(request_id)
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id


def follow(request_id: str, generation_id: str) -> None:
    """Work on for a request that was accepted earlier: log lines and RPCs carry its id from here on."""
    _current.set(request_id)
    structlog.contextvars.bind_contextvars(request_id=request_id, generation_id=generation_id)


def known_request_id() -> str | None:
    """The id of the request being worked on; None outside of any."""
    return _current.get()


def current_request_id() -> str:
    """The id of the request being worked on; a new one outside of any."""
    return _current.get() or new_id("req")
