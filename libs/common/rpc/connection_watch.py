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
from libs.common.rpc import sockets
from libs.common.rpc.callers import Caller, Callers, Reason
from libs.common.rpc.keyless_limits import Addresses, Connection
from libs.common.rpc.shares import NOBODY, Limits
from libs.common.rpc.sockets import Endpoint, Ends

log = structlog.get_logger()
# Reasons for which an address is blocked, because a client that only reconnected would do the same again.
_BLOCKING: frozenset[Reason | None] = frozenset({"cancelled", "frames"})
# How long calls may wait to be accepted after their connection was reset.
_GONE_SECONDS = 15.0
# The limit for all connections that may not have acknowledged the SETTINGS yet; see `server_options` for the seconds.
_NEW_BYTES, _NEW_SECONDS = 64 * 1024**2, 10.0
_INTERVAL_SECONDS = 0.1
# The pause after a scan that failed, so that a lasting failure does not fill the log.
_FAILED_SECONDS = 1.0
# The largest part of one processor that scans may use.
_SCAN_SHARE = 0.1


class ConnectionWatch:
    """Scans the connections of some ports ten times a second in a thread, and resets those beyond a limit.

    Args:
        limits: the connections that each port may have: in total, and of one address, key and owner.
        callers: the peers that have authenticated calls, and the peers whose connections must be reset.
        message_limit_bytes: the largest message that the ports accept.
        probe_ports: those of the ports that serve probes alone. There calls cost nothing and no address is blocked.
    """

    def __init__(
        self,
        limits: Mapping[int, Limits],
        callers: Callers,
        message_limit_bytes: int,
        probe_ports: Collection[int] = (),
    ) -> None:
        self._limits = limits
        self._message_limit_bytes = message_limit_bytes
        self._probe_ports = probe_ports
        self._callers = callers
        # By the inode of the socket. None: the socket is not a connection to one of the ports.
        self._known: dict[int, Connection | None] = {}
        self._closed: list[Connection] = []
        self._addresses = {
            port: Addresses(of_port, is_for_probes=port in probe_ports) for port, of_port in limits.items()
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
                # The thread must survive every failure, because without it nothing is limited.
                log.exception("scanning connections failed")
                wait_seconds = _FAILED_SECONDS
            else:
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

    def _reset(self, connection: Connection, reason: str, now: float) -> None:
        sockets.reset(connection.descriptor, connection.ends)
        self._reset_at[connection.ends.peer] = now
        metrics.RPC_CONNECTIONS_CLOSED.labels(reason).inc()

    def _reason(self, connection: Connection, requested: Reason | None, calls: int, now: float) -> str | None:
        """Return why a connection must be reset, apart from the number of connections; None if it need not be.

        Args:
            connection: which.
            requested: the reason for which `Callers` requests a reset, if it does.
            calls: unauthenticated calls since the last scan.
            now: see `TokenBucket`.
        """
        addresses = self._addresses[connection.ends.port]
        if requested is None and connection.exceeds_frame_limit(self._message_limit_bytes, now):
            requested = "frames"
        if requested in _BLOCKING:
            addresses.exhaust(connection.address, now)
        bucket = addresses.bucket(connection.address, now)
        if requested is None and connection.has_sent_too_much(calls, bucket, now):
            return "keyless"
        return requested

    def _refund_closed(self, callers: Mapping[Endpoint, Caller], now: float) -> None:
        """Refund what closed connections were charged before one of their calls was authenticated."""
        for closed in self._closed:
            if closed.ends.peer in callers:
                closed.refund(self._addresses[closed.ends.port].bucket(closed.address, now), now)
        self._closed.clear()

    def _connections(self, now: float) -> dict[int, Connection]:
        """Return the connections to the ports, by inode."""
        found = sockets.sockets()
        for inode in self._known.keys() - found.keys():
            closed = self._known.pop(inode)
            self._listeners.pop(inode, None)
            if closed is not None:
                self._closed.append(closed)
        for inode in found.keys() - self._known.keys():
            ends = sockets.ends_of(found[inode], self._limits)
            self._known[inode] = None if ends is None else Connection(ends, now, found[inode])
            if ends is not None:
                # The peer may use the port of a connection that was reset.
                self._reset_at.pop(ends.peer, None)
            elif port := sockets.listening_port_of(found[inode]):
                self._listeners[inode] = found[inode], port
        return {inode: connection for inode, connection in self._known.items() if connection is not None}


def _sent_most(connections: Mapping[int, Connection], now: float) -> Iterator[tuple[int, str]]:
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


def _too_many(connections: Mapping[int, Connection], limits: Limits, closing: Mapping[int, str]) -> dict[int, str]:
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
