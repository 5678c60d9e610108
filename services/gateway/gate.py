"""What stands before the HTTP server: connections are counted, and slow clients are cut off.

Slow are those that take long to send their headers, and those that take nothing of an answer for long.

aiohttp bounds the size of headers and the pause between two requests, but waits for the first for ever, which is all
that a slow-loris attack needs. Source: https://en.wikipedia.org/wiki/Slowloris_(cyber_attack).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from time import monotonic
from typing import Protocol, cast

from libs.common import metrics
from libs.common.rpc import sockets
from libs.common.rpc.shares import network_of
from services.gateway.address_limit import AddressLimit, Charges

_HEADER_END = b"\r\n\r\n"
_HEADER_LIMIT_BYTES = 64 * 1024
# Among the connections that have waited longest, all are idle but those whose next request has come at this moment.
_LOOKED_AT = 100
_ADDRESSES_LIMIT = 10_000


class Inner(Protocol):
    """The server's own protocol of a connection."""

    @property
    def is_idle(self) -> bool:
        """Whether no request is being read or answered."""

    @property
    def is_full(self) -> bool:
        """Whether reading from the connection is paused."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""

    def eof_received(self) -> bool | None:
        """See asyncio.Protocol."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""


class Gate:
    """Makes a guarded protocol for each connection.

    A connection that is one too many takes the place of the one that has been idle for longest: of its own address
    where that has its share already, of any where all are taken.

    Args:
        inner: makes the server's own.
        connections: how many at once.
        per_address: how many of them from one address. 0: no bound.
        header_timeout_seconds: what a client gets until its first request's headers are there.
        write_timeout_seconds: the time that a client has to read the next part of a response.
    """

    def __init__(
        self,
        inner: Callable[[], Inner],
        *,
        connections: int,
        per_address: int,
        header_timeout_seconds: float,
        write_timeout_seconds: float,
    ) -> None:
        self._inner = inner
        self._connections = connections
        self._per_address = per_address
        self.header_timeout_seconds = header_timeout_seconds
        self.write_timeout_seconds = write_timeout_seconds
        self._open: dict[object, Guarded] = {}
        # Dicts in the place of sets, for they keep the order: who has been idle for longest comes first.
        self._idle: dict[Guarded, None] = {}
        self._by_address: defaultdict[str, dict[Guarded, None]] = defaultdict(dict)
        self._limits: dict[str, AddressLimit] = {}

    def __call__(self) -> Guarded:
        """A protocol for one connection."""
        return Guarded(self, self._inner())

    def let_in(self, guarded: Guarded) -> str:
        """Count a connection. Answers why not, where there is no room for it; empty: it is in."""
        of_address = self._by_address.get(guarded.address, {})
        if self._per_address and len(of_address) >= self._per_address and not self._make_room(of_address):
            return "share"
        if len(self._open) >= self._connections and not self._make_room(self._idle):
            return "full"
        self._open[guarded.inner] = guarded
        self._by_address[guarded.address][guarded] = None
        self._idle[guarded] = None
        return ""

    def leave(self, guarded: Guarded) -> None:
        """Count it no more."""
        if self._open.pop(guarded.inner, None) is None:
            return
        self._idle.pop(guarded, None)
        of_address = self._by_address[guarded.address]
        del of_address[guarded]
        if not of_address:
            del self._by_address[guarded.address]

    @contextmanager
    def at_work(self, inner: object) -> Iterator[None]:
        """Count the connection of a protocol as one with a request in progress, until the block ends."""
        guarded = self._open.get(inner)
        if guarded is None:
            yield
            return
        self._idle.pop(guarded, None)
        guarded.begin_request()
        try:
            yield
        finally:
            guarded.end_request()
            if inner in self._open:
                guarded.answered_at = monotonic()
                self._idle[guarded] = None
                of_address = self._by_address[guarded.address]
                of_address[guarded] = of_address.pop(guarded)

    def know(self, inner: object) -> None:
        """Record that a request on a connection is authenticated. Bytes of this connection are not counted any more."""
        guarded = self._open.get(inner)
        if guarded is not None:
            guarded.know()

    def limit_of(self, address: str) -> AddressLimit | None:
        """Return the limit of an address; None if addresses have no shares, as behind a proxy."""
        if not self._per_address:
            return None
        limit = self._limits.get(address)
        if limit is None:
            if len(self._limits) >= _ADDRESSES_LIMIT:
                self._limits = {one: kept for one, kept in self._limits.items() if not kept.is_unused}
            limit = self._limits[address] = AddressLimit()
        return limit

    def _make_room(self, among: Iterable[Guarded]) -> bool:
        for guarded in islice(among, _LOOKED_AT):
            if guarded in self._idle and guarded.is_idle:
                guarded.make_room()
                return True
        return False


class Guarded(asyncio.Protocol):
    """One connection. Passes all on to the server's own protocol."""

    def __init__(self, gate: Gate, inner: Inner) -> None:
        self._gate = gate
        self.inner = inner
        self.address = ""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self.answered_at = 0.0
        # Until a request of the connection is authenticated.
        self._charges: Charges | None = None
        # The data that is held back.
        self._held: bytes | None = None
        self._has_ended = False
        self._head: bytes | None = b""
        self._is_in = False

    @property
    def is_idle(self) -> bool:
        """Whether it may be closed: no request is in progress, and no response is being read."""
        if self._transport is None or not self.inner.is_idle:
            return False
        is_late = monotonic() - self.answered_at > self._gate.write_timeout_seconds
        return is_late or not self._transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or not."""
        # uvloop's transports are none by their class.
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = network_of(peer[0]) if peer else ""
        refused = self._gate.let_in(self)
        if refused:
            self._cut_off(refused)
            return
        self._is_in = True
        limit = self._gate.limit_of(self.address)
        self._charges = Charges(limit, self) if limit is not None else None
        self._expect_headers()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Check the first headers and pass the data on; later if the address is beyond its limit."""
        if not self._is_in:
            return
        if self._held is not None:
            # Data that was read before reading was paused.
            self._held += data
        elif self._charges is not None and self._charges.delays(self._release):
            self._hold(data)
        else:
            self._pass_on(data)

    def know(self) -> None:
        """Stop counting the bytes of this connection, and refund those that were counted."""
        if self._charges is not None:
            self._charges.refund()
            self._charges = None
            self._release()

    def begin_request(self) -> None:
        """Charge a request to the address."""
        if self._charges is not None:
            self._charges.begin_request()

    def end_request(self) -> None:
        """Record that a request has ended."""
        if self._charges is not None:
            self._charges.end_request()

    def _hold(self, data: bytes) -> None:
        assert self._transport is not None
        self._held = data
        if self._timer is not None:
            # The header timeout must not run while the data is held.
            self._timer.cancel()
        self._transport.pause_reading()

    def _release(self) -> None:
        """Pass the held data on."""
        if self._held is None or self._transport is None:
            return
        held, self._held = self._held, None
        if self._timer is not None:
            self._expect_headers()
        self._pass_on(held)
        if self._has_ended:
            if not self.inner.eof_received():
                self._transport.close()
        elif self._is_in and not self.inner.is_full:
            self._transport.resume_reading()

    def _pass_on(self, data: bytes) -> None:
        if self._charges is not None:
            self._charges.receive(len(data))
        if self._head is not None:
            # Empty lines before a request are skipped (RFC 9112, section 2.2).
            self._head = (self._head + data).lstrip(b"\r\n")
            if _HEADER_END in self._head:
                self._end_watch()
            elif len(self._head) > _HEADER_LIMIT_BYTES:
                self._cut_off("large")
                return
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on, after the held data."""
        if self._held is not None:
            self._has_ended = True
            return True
        return self.inner.eof_received() if self._is_in else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._end_watch()
        self._end_unread()
        if self._charges is not None:
            self._charges.stop_waiting()
        self._held = None
        self._gate.leave(self)
        if self._is_in:
            self._is_in = False
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on, and start the write timeout."""
        if self._unread_timer is None:
            self._expect_reading()
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on, and stop the write timeout."""
        self._end_unread()
        self.inner.resume_writing()

    def make_room(self) -> None:
        """Close it for another one."""
        # At once, for it ends a little later.
        self._gate.leave(self)
        self._cut_off("idle")

    def _expect_reading(self) -> None:
        """Close the connection unless the client reads something within the write timeout."""
        loop = asyncio.get_running_loop()
        self._unread_timer = loop.call_later(self._gate.write_timeout_seconds, self._look_at_reading, self._unread())

    def _look_at_reading(self, before: tuple[int, int]) -> None:
        if self._unread() == before:
            self._cut_off("unread")
        else:
            self._expect_reading()

    def _unread(self) -> tuple[int, int]:
        """Return numbers that change when the client reads: bytes in the write buffer, and bytes acknowledged."""
        assert self._transport is not None
        connection = self._transport.get_extra_info("socket")
        taken_bytes = sockets.taken_bytes(connection.fileno()) if connection is not None else 0
        return self._transport.get_write_buffer_size(), taken_bytes

    def _end_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _expect_headers(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._gate.header_timeout_seconds, self._cut_off, "slow")

    def _end_watch(self) -> None:
        self._head = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self, why: str) -> None:
        metrics.CONNECTIONS_CUT_OFF.labels(why).inc()
        if self._transport is not None:
            self._transport.abort()
