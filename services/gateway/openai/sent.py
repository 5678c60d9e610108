"""Responses that report whether they were sent, or whether their clients disconnected before."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Literal

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from services.gateway.connections import Connection

# Buffers of the operating system and of proxies hold an answer for a while.
_SLOW_BYTES_A_SECOND, _TRAVEL_LEAST_SECONDS, _TRAVEL_LIMIT_SECONDS = 64 * 1024, 2.0, 300.0

# Linux tells a client that has closed its end from one that has closed the connection.
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLHUP)

Report = Callable[[Literal["answered_at", "left_at"], int], None]
"""Receives the outcome of a response and the size of its body in bytes."""


class SentAnswer(web.Response):
    """An answer whose sending is followed.

    It counts as sent once the operating system has taken all of its body but 64 KiB, the bound of the buffer before it.
    If the connection is reset while the answer may still be on its way, the disconnect is reported as well. An answer
    that is not sent, for instance because the process ends, is not reported.

    Args:
        answer: what is sent.
        report: called once, and a second time if the connection is reset after the answer was sent.
    """

    def __init__(self, answer: web.Response, report: Report) -> None:
        super().__init__(body=answer.body, status=answer.status, reason=answer.reason, headers=answer.headers)
        self._report: Report | None = report
        self._size_bytes = len(answer.body) if isinstance(answer.body, bytes | bytearray) else 0

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Begin to send. Raises ConnectionError where the client has left."""
        try:
            return await super().prepare(request)
        except (ConnectionError, asyncio.CancelledError):
            self._report_once("left_at")
            raise

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body. Raises ConnectionError where the client leaves meanwhile."""
        # It is forgotten at the end.
        request = self._req
        has_hung_up = request is not None and _has_hung_up(request.transport)
        try:
            await super().write_eof(data)
        except (ConnectionError, asyncio.CancelledError):
            # The handler is cancelled as its client leaves.
            self._report_once("left_at")
            raise
        has_left = has_hung_up or request is None or request.transport is None or request.transport.is_closing()
        report = self._report
        self._report_once("left_at" if has_left else "answered_at")
        if report is not None and request is not None and isinstance(request.protocol, Connection):
            seconds = travel_seconds(self._size_bytes)
            request.protocol.call_if_broken(lambda: report("left_at", self._size_bytes), within_seconds=seconds)

    def _report_once(self, mark: Literal["answered_at", "left_at"]) -> None:
        if self._report is not None:
            report, self._report = self._report, None
            report(mark, self._size_bytes)


def _has_hung_up(transport: asyncio.Transport | None) -> bool:
    """Whether a client has closed its end of the connection, also where the event loop does not know that yet."""
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None or connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), _HUNG_UP)
    return bool(poll.poll(0))


def travel_seconds(size_bytes: int) -> float:
    """Return the longest time that an answer of this size takes over the slowest link, in seconds."""
    return min(_TRAVEL_LIMIT_SECONDS, _TRAVEL_LEAST_SECONDS + size_bytes / _SLOW_BYTES_A_SECOND)
