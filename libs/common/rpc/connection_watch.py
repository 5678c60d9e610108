"""Bounds the TCP connections of ports that libraries listen at: how many there are, and what they send.

gRPC's server and the server of metrics limit neither how many connections an address may have nor what a peer sends
before it has shown a key. gRPC takes 16 MiB of headers from a client that has not acknowledged the server's SETTINGS,
on each connection, in spite of the limit of its own setting. Source: gRPC 1.85, chttp2/transport/http2_settings.h,
`kDefaultMaxHeaderListSize`, used by parsing.cc through `settings.acked()`. Their sockets belong to this process, so
that a thread can look at them.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from time import monotonic, thread_time

import structlog

from libs.common import metrics
from libs.common.rpc import sockets
from libs.common.rpc.budgets import Budget
from libs.common.rpc.callers import Caller, Callers
from libs.common.rpc.shares import NOBODY, Limits, network_of
from libs.common.rpc.sockets import Ends

log = structlog.get_logger()
KEYLESS_BYTES = 256 * 1024
"""What a peer may send on one connection before a call of it is authenticated: some thousand calls."""
_KEYLESS_BYTES_PER_SECOND = 16 * 1024
# And all such connections of one address together; those that have sent little stay nevertheless.
_ADDRESS_BYTES, _ADDRESS_BYTES_PER_SECOND = 512 * 1024, 32 * 1024
_LITTLE_BYTES = 16 * 1024
# Of all connections that are younger than what `server_options` gives a client to acknowledge the SETTINGS, together.
_NEW_BYTES, _NEW_SECONDS = 64 * 1024**2, 10.0
_INTERVAL_SECONDS = 0.1
# A look takes at most this part of the time of a processor.
_LOOK_SHARE = 0.1


class _Connection:
    """One connection. `caller`: whose calls on it were authenticated."""

    def __init__(self, ends: Ends, now: float, descriptor: int) -> None:
        self.ends = ends
        self.address = network_of(ends.peer.host)
        self.seen_at = now
        self.descriptor = descriptor
        self.received_bytes = 0
        self.caller: Caller | None = None
        self._budget = Budget(KEYLESS_BYTES, _KEYLESS_BYTES_PER_SECOND, now)

    def has_sent_too_much(self, of_address: Budget | None, now: float) -> bool:
        """Count what came without an authenticated call; whether it was too much of it, or of its address."""
        if self.caller is not None:
            return False
        before, self.received_bytes = self.received_bytes, sockets.received_bytes(self.descriptor)
        new_bytes = self.received_bytes - before
        is_address_spent = of_address is not None and of_address.spend(new_bytes, now)
        return self._budget.spend(new_bytes, now) or (is_address_spent and self.received_bytes > _LITTLE_BYTES)

    @property
    def order(self) -> tuple[bool, float]:
        """Who is closed first: the longest idle, and the newest where none is idle."""
        if self.caller is None or not self.caller.calls:
            return False, -sockets.idle_ms(self.descriptor)
        return True, -self.seen_at


class ConnectionWatch:
    """Looks at the connections of some ports several times a second, in a thread of its own.

    Args:
        limits: how many connections each port may have, in all and of one address, key and owner.
        callers: which peers have authenticated calls, and which are to be reset.
    """

    def __init__(self, limits: Mapping[int, Limits], callers: Callers) -> None:
        self._limits = limits
        self._callers = callers
        # By the inode of the socket. None: it is no connection to any of the ports.
        self._known: dict[int, _Connection | None] = {}
        self._of_address: dict[str, Budget] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection-watch", daemon=True)

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

    def look(self) -> list[Ends]:
        """Look at all connections once, reset those that are too many or send too much, and return all of them."""
        callers, unread, now = self._callers.by_endpoint(), self._callers.to_reset(), monotonic()
        connections = self._connections(now)
        closing: dict[int, str] = {}
        for inode, connection in connections.items():
            connection.caller = callers.get(connection.ends.peer)
            if connection.ends.peer in unread:
                closing[inode] = "unread"
            elif connection.has_sent_too_much(self._budget_of(connection, now), now):
                closing[inode] = "keyless"
        closing.update(_sent_most(connections, now))
        for port, limits in self._limits.items():
            of_port = {inode: one for inode, one in connections.items() if one.ends.port == port}
            closing.update(_too_many(of_port, limits, closing))
        for inode, reason in closing.items():
            sockets.reset(connections[inode].descriptor, connections[inode].ends)
            metrics.RPC_CONNECTIONS_CLOSED.labels(reason).inc()
        for address in [one for one, budget in self._of_address.items() if budget.is_whole(now)]:
            del self._of_address[address]
        self._callers.forget(callers, {connection.ends.peer for connection in connections.values()})
        return [connection.ends for connection in connections.values()]

    def _budget_of(self, connection: _Connection, now: float) -> Budget | None:
        """That of its address; none where addresses have no shares, as behind a proxy."""
        if not self._limits[connection.ends.port].address:
            return None
        budget = self._of_address.get(connection.address)
        if budget is None:
            budget = self._of_address[connection.address] = Budget(_ADDRESS_BYTES, _ADDRESS_BYTES_PER_SECOND, now)
        return budget

    def _connections(self, now: float) -> dict[int, _Connection]:
        """Those to the ports, by the inodes of their sockets."""
        found = sockets.sockets()
        for inode in self._known.keys() - found.keys():
            del self._known[inode]
        for inode in found.keys() - self._known.keys():
            ends = sockets.ends_of(found[inode], self._limits)
            self._known[inode] = None if ends is None else _Connection(ends, now, found[inode])
        return {inode: connection for inode, connection in self._known.items() if connection is not None}


def _sent_most(connections: Mapping[int, _Connection], now: float) -> Iterator[tuple[int, str]]:
    """The new ones without a key that sent most, as long as all such have sent too much together."""
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
    """Those beyond a limit, with the share that they exceed; those of `closing` do not count."""
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
