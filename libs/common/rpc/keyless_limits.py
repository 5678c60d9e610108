"""What peers may send to a gRPC port beside authenticated calls, by connection and by address."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from libs.common import metrics
from libs.common.rpc import packet_filter, sockets
from libs.common.rpc.callers import Caller
from libs.common.rpc.shares import Limits, network_of
from libs.common.rpc.sockets import Ends
from libs.common.rpc.token_bucket import TokenBucket

log = structlog.get_logger()
KEYLESS_BYTES = 256 * 1024
"""The burst that a peer may send on one connection before one of its calls is authenticated."""
_KEYLESS_BYTES_PER_SECOND = 16 * 1024
# The limit of a connection holds when it is so old. A client may begin many calls with large messages at once on a new
# connection, each of which may send 64 KiB before the first of them is authenticated.
_NEW_SECONDS = 0.5
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
# What a connection with authenticated calls may send that belongs to none of them, as floods of SETTINGS or of unknown
# frames do (CVE-2019-9515): as a burst, which has room for calls that wait to be accepted, and each second.
_FRAMES_BYTES, _FRAMES_BYTES_PER_SECOND = 2 * 1024**2, 256 * 1024
# For addresses without a share.
_UNLIMITED = TokenBucket(2**62, 0, 0.0)


class Connection:
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
        self._unaccounted_bytes = 0
        self._frames_bucket = TokenBucket(_FRAMES_BYTES, _FRAMES_BYTES_PER_SECOND, now)

    def count_bytes(self) -> None:
        """Read the number of received bytes."""
        before, self.received_bytes = self.received_bytes, sockets.received_bytes(self.descriptor)
        self._new_bytes = self.received_bytes - before

    def exceeds_frame_limit(self, message_limit_bytes: int, now: float) -> bool:
        """Return whether the connection, which has authenticated calls, sent too much that belongs to none of them.

        Args:
            message_limit_bytes: how large a message may be that is being received.
            now: see `TokenBucket`.
        """
        if self.caller is None:
            return False
        accounted_bytes = self.caller.accounted_bytes + self.caller.receiving * message_limit_bytes
        more_bytes = max(0, self.received_bytes - accounted_bytes - self._unaccounted_bytes)
        self._unaccounted_bytes += more_bytes
        return self._frames_bucket.take(more_bytes, now)

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
        is_spent = self._bucket.take(self._new_bytes, now) and now - self.seen_at > _NEW_SECONDS
        return is_spent or (is_address_spent and self.charged_bytes > _LITTLE_BYTES)

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


class Addresses:
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

    def exhaust(self, address: str, now: float) -> None:
        """Put an address into its largest debt."""
        self.bucket(address, now).take(_ADDRESS_BYTES + _LARGEST_DEBT_BYTES, now)

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
