"""Limits the TCP connections of ports that libraries serve: their number, and the bytes that they send without a key.

An address beyond its limit cannot open new connections for some seconds. Without this, a client that reconnects at once
would fill the queues in which gRPC keeps calls until they are accepted. Ports that serve probes alone never block an
address, because a blocked probe would have the process restarted.

The servers of gRPC and of metrics limit neither the connections of one address nor the bytes that a peer sends
before it is authenticated. gRPC accepts 16 MiB of headers on each connection whose client has not acknowledged the
server's SETTINGS, whatever `grpc.max_metadata_size` is. Source: gRPC 1.85, chttp2/transport/http2_settings.h,
`kDefaultMaxHeaderListSize`, which parsing.cc uses through `settings.acked()`. The sockets belong to this process, so
a thread can inspect and reset them.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from time import monotonic, thread_time

import structlog

from libs.common import metrics
from libs.common.rpc import packet_filter, sockets
from libs.common.rpc.callers import Caller, Callers, Reason
from libs.common.rpc.shares import NOBODY, Limits, network_of
from libs.common.rpc.sockets import Endpoint, Ends
from libs.common.rpc.token_bucket import TokenBucket

log = structlog.get_logger()
KEYLESS_BYTES = 256 * 1024
"""The burst that a peer may send on one connection before one of its calls is authenticated."""
_KEYLESS_BYTES_PER_SECOND = 16 * 1024
# The same for all such connections of one address. It has room for a client that opens 60 connections at once and sends
# what the windows of HTTP/2 allow. Connections that have sent little are not reset for this limit.
_ADDRESS_BYTES, _ADDRESS_BYTES_PER_SECOND = 4 * 1024**2, 256 * 1024
# What an unauthenticated call costs an address beyond its bytes, of which it has few (RFC 7541 compresses headers): an
# address may make 256 calls, and 16 more each second. And what a connection costs until a call is authenticated.
_CALL_BYTES, _CONNECTION_BYTES = 16 * 1024, 4 * 1024
_LITTLE_BYTES = 16 * 1024
_LARGEST_DEBT_BYTES = 2 * 1024**2
# While an address needs longer than this to work off its debt it cannot open connections: for up to eight seconds.
_BLOCKED_ABOVE_SECONDS = 0.5
# How long calls may wait to be accepted after their connection was reset.
_GONE_SECONDS = 15.0
# The limit for all connections that may not have acknowledged the SETTINGS yet; see `server_options` for the seconds.
_NEW_BYTES, _NEW_SECONDS = 64 * 1024**2, 10.0
_INTERVAL_SECONDS = 0.1
# The largest part of one processor that scans may use.
_SCAN_SHARE = 0.1


# For addresses without a share.
_UNLIMITED = TokenBucket(2**62, 0, 0.0)


class _Connection:
    """One connection. `caller`: the peer, if it has had an authenticated call; else None."""

    def __init__(self, ends: Ends, now: float, descriptor: int) -> None:
        self.ends = ends
        self.address = network_of(ends.peer.host)
        self.seen_at = now
        self.descriptor = descriptor
        self.received_bytes = 0
        self._new_bytes = 0
        # The received bytes and the cost of calls, as charged to the address.
        self.charged_bytes = 0
        self.caller: Caller | None = None
        self._bucket = TokenBucket(KEYLESS_BYTES, _KEYLESS_BYTES_PER_SECOND, now)

    def count_bytes(self) -> None:
        """Read the number of received bytes, unless a call was authenticated by the last scan."""
        if self.caller is None:
            before, self.received_bytes = self.received_bytes, sockets.received_bytes(self.descriptor)
            self._new_bytes = self.received_bytes - before

    def has_sent_too_much(self, calls: int, of_address: TokenBucket, now: float) -> bool:
        """Count the bytes and calls that came before authentication. Return whether they exceed a limit.

        Args:
            calls: unauthenticated calls since the last scan.
            of_address: the token bucket of the address.
            now: see `TokenBucket`.
        """
        if self.caller is not None:
            self.refund(of_address, now)
            return False
        charge_bytes = self._new_bytes + calls * _CALL_BYTES + (0 if self.charged_bytes else _CONNECTION_BYTES)
        self.charged_bytes += charge_bytes
        is_address_spent = of_address.take(charge_bytes, now)
        return self._bucket.take(self._new_bytes, now) or (is_address_spent and self.charged_bytes > _LITTLE_BYTES)

    def refund(self, of_address: TokenBucket, now: float) -> None:
        """Return the charge to the address, because a call was authenticated after it."""
        of_address.refund(self.charged_bytes, now)
        self.charged_bytes = 0

    @property
    def order(self) -> tuple[bool, float]:
        """The sort key for closing: idle connections first, the longest idle before others; then the newest."""
        if self.caller is None or not self.caller.calls:
            return False, -sockets.idle_ms(self.descriptor)
        return True, -self.seen_at


class _Addresses:
    """The bytes that addresses sent to one port without a key, and the addresses that the port blocks for it.

    Where addresses have no share of the connections, as behind a proxy, they have no share of bytes either.
    """

    def __init__(self, limits: Limits, *, is_for_probes: bool) -> None:
        self._is_limited = bool(limits.address)
        self._is_for_probes = is_for_probes
        self._buckets: dict[str, TokenBucket] = {}
        self._blocked: frozenset[str] = frozenset()

    def bucket(self, address: str, now: float) -> TokenBucket:
        """Return the token bucket of an address."""
        if not self._is_limited:
            return _UNLIMITED
        found = self._buckets.get(address)
        if found is None:
            found = TokenBucket(_ADDRESS_BYTES, _ADDRESS_BYTES_PER_SECOND, now, _LARGEST_DEBT_BYTES)
            self._buckets[address] = found
        return found

    def block(self, listeners: Collection[int], now: float) -> None:
        """Block the addresses with a large debt at the port's listening sockets, given by their descriptors."""
        for address in [address for address, bucket in self._buckets.items() if bucket.is_full(now)]:
            del self._buckets[address]
        if self._is_for_probes:
            return
        waits = {address: bucket.wait_seconds(now) for address, bucket in self._buckets.items()}
        blocked = frozenset(address for address, seconds in waits.items() if seconds > _BLOCKED_ABOVE_SECONDS)
        if blocked == self._blocked:
            return
        metrics.RPC_ADDRESSES_BLOCKED.inc(len(blocked - self._blocked))
        self._blocked = blocked
        for descriptor in listeners:
            try:
                with sockets.borrowed(descriptor) as listener:
                    packet_filter.block(listener, sorted(blocked, key=waits.__getitem__, reverse=True))
            except OSError as error:
                log.warning("addresses cannot be blocked", error=str(error))


class ConnectionWatch:
    """Scans the connections of some ports ten times a second in a thread, and resets those beyond a limit.

    Args:
        limits: the connections that each port may have: in total, and of one address, key and owner.
        callers: the peers that have authenticated calls, and the peers whose connections must be reset.
        probe_ports: those of the ports that serve probes alone. There calls cost nothing and no address is blocked.
    """

    def __init__(self, limits: Mapping[int, Limits], callers: Callers, probe_ports: Collection[int] = ()) -> None:
        self._limits = limits
        self._probe_ports = probe_ports
        self._callers = callers
        # By the inode of the socket. None: the socket is not a connection to one of the ports.
        self._known: dict[int, _Connection | None] = {}
        self._closed: list[_Connection] = []
        self._addresses = {
            port: _Addresses(of_port, is_for_probes=port in probe_ports) for port, of_port in limits.items()
        }
        self._listeners: dict[int, tuple[int, int]] = {}
        # When the connections of peers were reset.
        self._reset_at: dict[Endpoint, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection-watch", daemon=True)

    def start(self) -> None:
        """Start the thread. On other systems than Linux a warning is logged, and nothing is limited."""
        if sys.platform == "linux":
            self._thread.start()
        else:
            log.warning("connections are not watched: this needs Linux")

    def stop(self) -> None:
        """Stop the thread within one second."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        wait_seconds = _INTERVAL_SECONDS
        while not self._stopping.wait(wait_seconds):
            # Processor time, not wall-clock time: a scan that had to wait for a processor must not delay the next one.
            started = thread_time()
            try:
                self.scan()
            except Exception:
                # The thread must survive every failure: without it strangers have no limits.
                log.exception("scanning connections failed")
            wait_seconds = max(_INTERVAL_SECONDS, (thread_time() - started) / _SCAN_SHARE)

    def scan(self) -> list[Ends]:
        """Scan all connections once, reset those beyond a limit, and return all of them."""
        now = monotonic()
        connections = self._connections(now)
        for connection in connections.values():
            connection.count_bytes()
        # After the counters, because a client sends megabytes as soon as one of its calls is authenticated.
        callers, to_reset = self._callers.by_endpoint(), self._callers.to_reset()
        calls = self._callers.take_unauthenticated_calls()
        self._refund_closed(callers, now)
        closing: dict[int, str] = {}
        for inode, connection in connections.items():
            connection.caller = callers.get(connection.ends.peer)
            peer = connection.ends.peer
            charged_calls = 0 if connection.ends.port in self._probe_ports else calls.get(peer, 0)
            if reason := self._reason(connection, to_reset.get(peer), charged_calls, now):
                closing[inode] = reason
        closing.update(_sent_most(connections, now))
        for port, limits in self._limits.items():
            of_port = {inode: one for inode, one in connections.items() if one.ends.port == port}
            closing.update(_too_many(of_port, limits, closing))
        for inode, reason in closing.items():
            self._reset(connections[inode], reason, now)
        self._reset_at = {peer: at for peer, at in self._reset_at.items() if now - at < _GONE_SECONDS}
        self._callers.set_reset_peers(frozenset(self._reset_at))
        for port, addresses in self._addresses.items():
            addresses.block([fd for fd, listening in self._listeners.values() if listening == port], now)
        self._callers.forget(callers, {connection.ends.peer for connection in connections.values()})
        return [connection.ends for connection in connections.values()]

    def _reset(self, connection: _Connection, reason: str, now: float) -> None:
        sockets.reset(connection.descriptor, connection.ends)
        self._reset_at[connection.ends.peer] = now
        metrics.RPC_CONNECTIONS_CLOSED.labels(reason).inc()

    def _reason(self, connection: _Connection, requested: Reason | None, calls: int, now: float) -> str | None:
        """Return why a connection must be reset, apart from the number of connections; None if it need not be.

        Args:
            connection: which.
            requested: the reason for which `Callers` requests a reset, if it does.
            calls: unauthenticated calls since the last scan.
            now: see `TokenBucket`.
        """
        bucket = self._addresses[connection.ends.port].bucket(connection.address, now)
        if requested == "cancelled":
            bucket.take(2 * _ADDRESS_BYTES, now)
        if requested is None and connection.has_sent_too_much(calls, bucket, now):
            return "keyless"
        return requested

    def _refund_closed(self, callers: Mapping[Endpoint, Caller], now: float) -> None:
        """Refund what closed connections were charged before one of their calls was authenticated."""
        for closed in self._closed:
            if closed.ends.peer in callers:
                closed.refund(self._addresses[closed.ends.port].bucket(closed.address, now), now)
        self._closed.clear()

    def _connections(self, now: float) -> dict[int, _Connection]:
        """Return the connections to the ports, by inode."""
        found = sockets.sockets()
        for inode in self._known.keys() - found.keys():
            closed = self._known.pop(inode)
            self._listeners.pop(inode, None)
            if closed is not None:
                self._closed.append(closed)
        for inode in found.keys() - self._known.keys():
            ends = sockets.ends_of(found[inode], self._limits)
            self._known[inode] = None if ends is None else _Connection(ends, now, found[inode])
            if ends is not None:
                # The peer may use the port of a connection that was reset.
                self._reset_at.pop(ends.peer, None)
            elif port := sockets.listening_port_of(found[inode]):
                self._listeners[inode] = found[inode], port
        return {inode: connection for inode, connection in self._known.items() if connection is not None}


def _sent_most(connections: Mapping[int, _Connection], now: float) -> Iterator[tuple[int, str]]:
    """Yield the new unauthenticated connections that sent most, until the rest of them is within the limit."""
    new = {
        inode: connection.received_bytes
        for inode, connection in connections.items()
        if connection.caller is None and now - connection.seen_at < _NEW_SECONDS
    }
    left_bytes = sum(new.values())
    for inode in sorted(new, key=new.__getitem__, reverse=True):
        if left_bytes <= _NEW_BYTES:
            return
        left_bytes -= new[inode]
        yield inode, "keyless"


def _too_many(connections: Mapping[int, _Connection], limits: Limits, closing: Mapping[int, str]) -> dict[int, str]:
    """Return the connections beyond a limit, with the share that they exceed. Those in `closing` are not counted."""
    groups: defaultdict[tuple[str, str, int], list[int]] = defaultdict(list)
    for inode, connection in connections.items():
        holder = connection.caller.holder if connection.caller else NOBODY
        for share, name, limit in (
            ("address", connection.address, limits.address),
            ("key", holder.key, limits.key),
            ("owner", holder.owner, limits.owner),
            ("total", "all", limits.total),
        ):
            if name and limit and inode not in closing:
                groups[share, name, limit].append(inode)
    found: dict[int, str] = {}
    for (share, _, limit), members in groups.items():
        left = [inode for inode in members if inode not in found]
        if len(left) > limit:
            left.sort(key=lambda inode: connections[inode].order)
            found.update(dict.fromkeys(left[: len(left) - limit], share))
    return found
