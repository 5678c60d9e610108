"""Counts the TCP connections of ports that libraries listen at, and closes those that are too many or send too much.

gRPC's server and the server of metrics limit neither how many connections an address may have nor what a peer sends
before it has shown a key. gRPC takes 16 MiB of headers from a client that has not acknowledged the server's SETTINGS,
on each connection, in spite of the limit of its own setting. Source: gRPC 1.85, chttp2/transport/http2_settings.h,
`kDefaultMaxHeaderListSize`, used by parsing.cc through `settings.acked()`. Their sockets belong to this process, so
that a thread can look at them. What the kernel counts of each is read by TCP_INFO (tcp(7)), which Linux alone has.
"""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from time import monotonic, thread_time
from typing import NamedTuple
from urllib.parse import unquote

import structlog

from libs.common import metrics
from libs.common.rpc.shares import Holder, Limits, network_of

log = structlog.get_logger()
KEYLESS_BYTES = 256 * 1024
"""What a peer may send on one connection before a call of it is authenticated."""
_KEYLESS_BYTES_PER_SECOND = 64 * 1024
_INTERVAL_SECONDS = 0.1
# A look takes at most this part of the time of a processor.
_LOOK_SHARE = 0.1
_PEERS_LIMIT = 8_192
_DESCRIPTORS = "/proc/self/fd"
_libc = ctypes.CDLL(None, use_errno=True)
# struct sockaddr with AF_UNSPEC.
_NOWHERE = bytes(16)
# struct tcp_info of linux/tcp.h: tcpi_last_data_recv (milliseconds) and tcpi_bytes_received.
_IDLE_MS_AT, _RECEIVED_AT, _INFO_BYTES = 52, 128, 136


class Endpoint(NamedTuple):
    """An address and a port, as the peer of a connection."""

    host: str
    port: int


@dataclass(slots=True)
class _Caller:
    """A peer with authenticated calls: whose key they came with, and how many are in progress."""

    holder: Holder
    calls: int = 0


class Callers:
    """The peers with authenticated calls. Calls are noted by the event loop, and read by the thread of the watch."""

    def __init__(self) -> None:
        self._by_peer: dict[str, _Caller] = {}

    @contextmanager
    def calling(self, peer: str, holder: Holder) -> Iterator[None]:
        """Count an authenticated call until the block ends. `peer`: as gRPC names it."""
        caller = self._by_peer.get(peer)
        if caller is None:
            caller = self._by_peer.setdefault(peer, _Caller(holder))
        caller.calls += 1
        try:
            yield
        finally:
            caller.calls -= 1

    def by_endpoint(self) -> dict[Endpoint, _Caller]:
        """All of them."""
        return {endpoint: caller for peer, caller in list(self._by_peer.items()) if (endpoint := _endpoint_of(peer))}

    def keep(self, endpoints: Iterable[Endpoint], known: Iterable[Endpoint]) -> None:
        """Forget those of `known` that are not among `endpoints`: their connections have ended."""
        gone = set(known).difference(endpoints)
        for peer in list(self._by_peer):
            if _endpoint_of(peer) in gone:
                del self._by_peer[peer]


@dataclass(slots=True)
class _Connection:
    """One connection. `budget_bytes`: what it may still send without a key."""

    port: int
    peer: Endpoint
    seen_at: float
    looked_at: float = field(init=False)
    budget_bytes: float = KEYLESS_BYTES
    received_bytes: int = 0
    caller: _Caller | None = None

    def __post_init__(self) -> None:
        self.looked_at = self.seen_at

    def order(self, descriptor: int) -> tuple[bool, float]:
        """Who is closed first: the longest idle, and the newest where none is idle."""
        if self.caller is None or not self.caller.calls:
            return False, -_counted(descriptor, "I", _IDLE_MS_AT)
        return True, -self.seen_at


class ConnectionWatch:
    """Looks at the connections of some ports several times a second, in a thread of its own.

    Args:
        limits: how many connections each port may have, in all and of one address, key and owner.
        callers: which peers have authenticated calls.
    """

    def __init__(self, limits: Mapping[int, Limits], callers: Callers) -> None:
        self._limits = limits
        self._callers = callers
        # By the inode of the socket, which no other gets while the connection is there. None: of no port of ours.
        self._known: dict[int, _Connection | None] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection-watch", daemon=True)

    @property
    def peers(self) -> int:
        """How many connections there were at the last look."""
        return sum(connection is not None for connection in self._known.values())

    def start(self) -> None:
        """Begin. Where the system does not tell what is needed, a log line says so, and nothing is watched."""
        if sys.platform == "linux":
            self._thread.start()
        else:
            log.warning("connections are not watched: this needs Linux")

    def stop(self) -> None:
        """End, within a second."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        wait_seconds = _INTERVAL_SECONDS
        while not self._stopping.wait(wait_seconds):
            # Not of the clock: a look that has to wait for others is late already.
            started = thread_time()
            try:
                self.look()
            except Exception:
                log.exception("looking at connections failed")
            wait_seconds = max(_INTERVAL_SECONDS, (thread_time() - started) / _LOOK_SHARE)

    def look(self) -> None:
        """Look at all connections once, and close those that are too many or send too much."""
        callers = self._callers.by_endpoint()
        now = monotonic()
        found: dict[int, int] = {}
        for inode, descriptor in _sockets():
            found[inode] = descriptor
            if inode not in self._known:
                self._known[inode] = _connection_of(descriptor, self._limits, now)
        for inode in self._known.keys() - found.keys():
            del self._known[inode]
        there = {inode: known for inode, known in self._known.items() if known is not None}
        closing: dict[int, str] = {}
        for inode, connection in there.items():
            connection.caller = callers.get(connection.peer)
            if _has_sent_too_much(connection, found[inode], now):
                closing[inode] = "keyless"
        for port, limits in self._limits.items():
            of_port = {inode: one for inode, one in there.items() if one.port == port and inode not in closing}
            closing.update(_too_many(of_port, limits, found))
        for inode, reason in closing.items():
            _close(found[inode], there[inode])
            metrics.RPC_CONNECTIONS_CLOSED.labels(reason).inc()
        self._callers.keep((connection.peer for connection in there.values()), callers)


def _too_many(connections: Mapping[int, _Connection], limits: Limits, descriptors: Mapping[int, int]) -> dict[int, str]:
    """Those beyond a limit, with the share that they exceed."""
    groups: defaultdict[tuple[str, str, int], list[int]] = defaultdict(list)
    closing: dict[int, str] = {}
    for inode, connection in connections.items():
        holder = connection.caller.holder if connection.caller else Holder()
        for share, name, limit in (
            ("address", network_of(connection.peer.host), limits.address),
            ("key", holder.key, limits.key),
            ("owner", holder.owner, limits.owner),
            ("total", "all", limits.total),
        ):
            if name and limit:
                groups[share, name, limit].append(inode)
    for (share, _, limit), members in groups.items():
        left = [inode for inode in members if inode not in closing]
        if len(left) > limit:
            left.sort(key=lambda inode: connections[inode].order(descriptors[inode]))
            closing.update(dict.fromkeys(left[: len(left) - limit], share))
    return closing


def _sockets() -> Iterator[tuple[int, int]]:
    """The inode and the file descriptor of each socket of this process."""
    with os.scandir(_DESCRIPTORS) as entries:
        for entry in entries:
            descriptor = int(entry.name)
            with suppress(OSError):
                status = os.fstat(descriptor)
                if stat.S_ISSOCK(status.st_mode):
                    yield status.st_ino, descriptor


def _connection_of(descriptor: int, ports: Mapping[int, Limits], now: float) -> _Connection | None:
    """The connection of a socket; None for one that is no connection to any of the ports."""
    with suppress(OSError), _borrowed(descriptor) as borrowed:
        if borrowed.family not in {socket.AF_INET, socket.AF_INET6} or borrowed.type != socket.SOCK_STREAM:
            return None
        port = borrowed.getsockname()[1]
        if port in ports:
            host, peer_port, *_ = borrowed.getpeername()
            return _Connection(port, _endpoint(host, peer_port), now)
    return None


def _has_sent_too_much(connection: _Connection, descriptor: int, now: float) -> bool:
    """Whether more came without an authenticated call than may, by what the kernel counts."""
    if connection.caller is not None:
        return False
    received_bytes = _counted(descriptor, "Q", _RECEIVED_AT)
    earned = connection.budget_bytes + _KEYLESS_BYTES_PER_SECOND * (now - connection.looked_at)
    connection.budget_bytes = min(KEYLESS_BYTES, earned) - (received_bytes - connection.received_bytes)
    connection.received_bytes, connection.looked_at = received_bytes, now
    return connection.budget_bytes < 0


def _counted(descriptor: int, kind: str, at: int) -> int:
    """A number of the kernel's about a connection; 0 where it has none, or the connection has just ended."""
    # Without a copy of the descriptor, which would cost as much again: what is read of another socket harms nobody.
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return 0
    finally:
        borrowed.detach()
    return struct.unpack_from(kind, info, at)[0] if len(info) == _INFO_BYTES else 0


def _close(descriptor: int, connection: _Connection) -> None:
    """Reset a connection, so that what it has sent and nobody has read is gone. Its owner, a library, then closes it.

    By connecting it to nowhere, see connect(2): a shutdown would leave to be read what has come already.
    """
    with suppress(OSError), _borrowed(descriptor) as borrowed:
        if _is_same(borrowed, connection):
            _libc.connect(borrowed.fileno(), _NOWHERE, len(_NOWHERE))


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """The socket of a descriptor that a library may close, and the system give to another, at any time."""
    with socket.socket(fileno=os.dup(descriptor)) as borrowed:
        yield borrowed


def _is_same(borrowed: socket.socket, connection: _Connection) -> bool:
    host, port, *_ = borrowed.getpeername()
    return borrowed.getsockname()[1] == connection.port and _endpoint(host, port) == connection.peer


@lru_cache(_PEERS_LIMIT)
def _endpoint_of(peer: str) -> Endpoint | None:
    """The endpoint that gRPC calls `ipv4:192.0.2.1:5000` or `ipv6:%5B2001:db8::1%5D:5000`; None for another kind."""
    family, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if family not in {"ipv4", "ipv6"} or not port.isdigit():
        return None
    return _endpoint(host.strip("[]"), int(port))


def _endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(host.removeprefix("::ffff:") if "." in host else host, port)
