"""The HTTP protocol of one connection, with the errors of its parser told as all others are."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.web_protocol import RequestHandler

from libs.common.rpc.context import REQUEST_ID_KEY, begin_request, current_request_id
from services.gateway.failures import BROKEN_BODY
from services.gateway.rest.middlewares import refusal, refusal_of, unknown_packing

_BEGINNING_BYTES = 1_024
_OPENAI_LINE = re.compile(rb"[\r\n]*[^\s]{1,100} (?:https?://[^/\s]*)?/v1/")


class Connection(RequestHandler):
    """aiohttp's own, but for what is no HTTP: that is the sender's fault, and neither logged as an error nor stored."""

    __slots__ = ("_beginning", "_broken", "_broken_until")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._broken: Callable[[], None] | None = None
        self._broken_until = 0.0
        # Of the data that was received last: the request line, if it does not parse.
        self._beginning = b""

    def call_if_broken(self, broken: Callable[[], None], *, within_seconds: float) -> None:
        """Call `broken` if the connection is reset within that time, unless its client has sent anything before.

        A client that has its answer goes on with another request, or closes the connection in good order.
        """
        self._broken, self._broken_until = broken, monotonic() + within_seconds

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._broken = None
        self._beginning = data[:_BEGINNING_BYTES]
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        broken, self._broken = self._broken, None
        super().connection_lost(exc)
        if broken is not None and exc is not None and monotonic() < self._broken_until:
            broken()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""
        return self._current_request is None and not self._messages

    @property
    def is_full(self) -> bool:
        """Whether reading from the connection is paused."""
        return self._reading_paused or self._buffer_paused

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer. What aiohttp refuses before any middleware, such as an Expect header, gets its shape here."""
        if isinstance(resp, web.HTTPException) and resp.status >= HTTPStatus.BAD_REQUEST:
            begin_request(None)
            resp = refusal_of(request, resp)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer in the shape of the path, and close the connection. Aiohttp calls this for bytes that do not parse."""
        if isinstance(exc, UnicodeError):
            # What aiohttp cannot write back, such as an `expect` that is not UTF-8; our handlers raise none to here.
            status = HTTPStatus.BAD_REQUEST
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return super().handle_error(request, status, exc, message)
        begin_request(None)
        error: web.HTTPException = web.HTTPBadRequest(text="The request is not valid HTTP.")
        if isinstance(exc, ContentEncodingError):
            error = unknown_packing()
        response = refusal(error, is_openai=_OPENAI_LINE.match(self._beginning) is not None)
        response.headers[REQUEST_ID_KEY] = current_request_id()
        # Set, so that aiohttp does not name itself and its version.
        response.headers[hdrs.SERVER] = "darkroom"
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what went wrong, unless it is the sender's fault: a body that turns out broken after its answer."""
        if isinstance(kw.get("exc_info"), BROKEN_BODY):
            self.log_debug(*args, **kw)
        else:
            super().log_exception(*args, **kw)
