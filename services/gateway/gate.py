"""What stands before the HTTP server: connections are counted, and a client that dawdles over its headers is cut off.

aiohttp bounds the size of headers and the pause between two requests, but waits for the first for ever, which is all
that a slow-loris attack needs. Source: https://en.wikipedia.org/wiki/Slowloris_(cyber_attack).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from libs.common import metrics

_HEADER_END = b"\r\n\r\n"
_HEADER_LIMIT_BYTES = 64 * 1024


class Gate:
    """Makes a guarded protocol for each connection.

    Args:
        inner: makes the server's own.
        connections: how many at once.
        header_timeout_seconds: what a client gets until its first request's headers are there.
    """

    def __init__(
        self, inner: Callable[[], asyncio.Protocol], *, connections: int, header_timeout_seconds: float
    ) -> None:
        self._inner = inner
        self._connections = connections
        self.header_timeout_seconds = header_timeout_seconds
        self.open: set[Guarded] = set()

    def __call__(self) -> Guarded:
        """A protocol for one connection."""
        return Guarded(self, self._inner())

    @property
    def is_full(self) -> bool:
        """Whether no more connections are taken."""
        return len(self.open) >= self._connections


class Guarded(asyncio.Protocol):
    """One connection. Passes all on to the server's own protocol."""

    def __init__(self, gate: Gate, inner: asyncio.Protocol) -> None:
        self._gate = gate
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or not."""
        # uvloop's transports are none by their class.
        self._transport = cast("asyncio.Transport", transport)
        if self._gate.is_full:
            self._cut_off("full")
            return
        self._gate.open.add(self)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._gate.header_timeout_seconds, self._cut_off, "slow")
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Look for the end of the first headers, and pass on."""
        if self not in self._gate.open:
            return
        if self._head is not None:
            self._head += data
            if _HEADER_END in self._head:
                self._end_watch()
            elif len(self._head) > _HEADER_LIMIT_BYTES:
                self._cut_off("large")
                return
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self._inner.eof_received() if self in self._gate.open else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._end_watch()
        if self in self._gate.open:
            self._gate.open.discard(self)
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._inner.resume_writing()

    def _end_watch(self) -> None:
        self._head = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self, why: str) -> None:
        metrics.CONNECTIONS_CUT_OFF.labels(why).inc()
        if self._transport is not None:
            self._transport.abort()
