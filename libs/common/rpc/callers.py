"""The peers of a gRPC server: which peers have authenticated calls, and which connections to reset."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from libs.common.rpc.shares import Holder, network_of_peer
from libs.common.rpc.sockets import Endpoint, endpoint_of
from libs.common.rpc.token_bucket import TokenBucket

Reason = Literal["unread", "cancelled", "frames"]
"""Why a connection is reset: its client does not read responses, cancels calls as soon as it has made them, or sends
frames that belong to no message of a call."""
# The limit of calls of one key that are cancelled within so many seconds. They are of no use to a client, and cost the
# server as much as others (CVE-2023-44487).
_CANCELLED_SECONDS = 0.1
_CANCELLED_CALLS, _CANCELLED_PER_SECOND = 300, 50
# What a call may send beside its message: its headers, and as much of the message as its window permits (64 KiB) if the
# call ends before the message is received.
_CALL_BYTES = 96 * 1024
# The bytes that are accounted for by a call that was cancelled while its message was received, for example by its
# deadline, because the size of the part that was received is unknown. And the number of such calls of one key: the
# burst, and the rate each second.
_ABORTED_BYTES, _ABORTED_CALLS, _ABORTED_PER_SECOND = 16 * 1024**2, 4, 1


@dataclass(slots=True)
class Caller:
    """A peer with authenticated calls.

    Attributes:
        holder: the key and the owner of its first call.
        calls: the number of calls in progress.
        receiving: how many of them receive a message.
        accounted_bytes: the received bytes that its calls and their messages account for.
    """

    holder: Holder
    calls: int = 0
    receiving: int = 0
    accounted_bytes: int = 0

    def has_received(self, size_bytes: int) -> None:
        """Count a message. An eighth more is for what HTTP/2 and TLS add to it."""
        self.accounted_bytes += size_bytes + size_bytes // 8


class Callers:
    """Records peers and requests to reset them.

    The event loop writes, with peers in gRPC's notation (`ipv4:192.0.2.1:5000`). The thread of `ConnectionWatch` reads.
    """

    def __init__(self) -> None:
        self._by_peer: dict[str, Caller] = {}
        self._to_reset: dict[str, Reason] = {}
        self._unauthenticated_calls: Counter[str] = Counter()
        self._reset_peers: frozenset[Endpoint] = frozenset()
        # By key.
        self._cancelled: dict[str, TokenBucket] = {}
        self._aborted: dict[str, TokenBucket] = {}

    def count_call(self, peer: str) -> bool:
        """Count a call if its peer has had no authenticated call. Return False if its connection has been reset.

        gRPC returns calls that waited to be accepted also after their connection was reset.
        """
        if peer in self._by_peer:
            return True
        self._unauthenticated_calls[peer] += 1
        return not self._reset_peers or endpoint_of(peer) not in self._reset_peers

    @contextmanager
    def calling(self, peer: str, holder: Holder) -> Iterator[None]:
        """Count an authenticated call until the block ends."""
        caller = self._by_peer.get(peer)
        if caller is None:
            caller = self._by_peer.setdefault(peer, Caller(holder))
        caller.calls += 1
        caller.accounted_bytes += _CALL_BYTES
        began = monotonic()
        try:
            yield
        except asyncio.CancelledError:
            if monotonic() - began < _CANCELLED_SECONDS:
                self._count_cancelled(peer, holder.key)
            raise
        finally:
            caller.calls -= 1

    @contextmanager
    def receiving(self, peer: str) -> Iterator[Callable[[int], None]]:
        """Count the receiving of messages until the block ends.

        Yields a function that counts a received message, given its bytes.
        """
        caller = self._by_peer.get(peer)
        if caller is None:
            yield _ignore
            return
        caller.receiving += 1
        try:
            yield caller.has_received
        except asyncio.CancelledError:
            self._account_for_aborted(caller)
            raise
        finally:
            caller.receiving -= 1

    def _account_for_aborted(self, caller: Caller) -> None:
        now, key = monotonic(), caller.holder.key
        bucket = self._aborted.get(key)
        if bucket is None:
            bucket = self._aborted[key] = TokenBucket(_ABORTED_CALLS, _ABORTED_PER_SECOND, now, 0)
        if not bucket.take(1, now):
            caller.has_received(_ABORTED_BYTES)

    def reset(self, peer: str, reason: Reason) -> None:
        """Request that the connection of a peer is reset."""
        self._to_reset[peer] = reason

    def _count_cancelled(self, peer: str, key: str) -> None:
        """Count a call that was cancelled at once. Beyond the limit of its key, request resets.

        All connections of the key from the same address are reset, because calls that are cancelled before their
        handler starts are not counted, so that the other connections may do the same.
        """
        if endpoint_of(peer) is None:
            # The gateway calls itself for clients of REST, over a socket that is never reset.
            return
        now = monotonic()
        bucket = self._cancelled.get(key)
        if bucket is None:
            bucket = self._cancelled[key] = TokenBucket(_CANCELLED_CALLS, _CANCELLED_PER_SECOND, now, _CANCELLED_CALLS)
        if not bucket.take(1, now) or peer in self._to_reset:
            return
        address = network_of_peer(peer)
        for other, caller in list(self._by_peer.items()):
            if caller.holder.key == key and network_of_peer(other) == address:
                self.reset(other, "cancelled")

    def by_endpoint(self) -> dict[Endpoint, Caller]:
        """Return the peers that have had authenticated calls."""
        return {endpoint: caller for peer, caller in list(self._by_peer.items()) if (endpoint := endpoint_of(peer))}

    def set_reset_peers(self, endpoints: frozenset[Endpoint]) -> None:
        """Set the peers whose connections were reset in the last seconds."""
        self._reset_peers = endpoints

    def take_unauthenticated_calls(self) -> dict[Endpoint, int]:
        """Return the numbers of calls of peers without an authenticated call since the last time."""
        counts = self._unauthenticated_calls
        found = {endpoint_of(peer): counts.pop(peer) for peer in list(counts)}
        return {endpoint: number for endpoint, number in found.items() if endpoint}

    def to_reset(self) -> dict[Endpoint, Reason]:
        """Return the peers whose connections must be reset, and remove them."""
        # One by one, because the event loop adds peers meanwhile.
        found = {endpoint_of(peer): self._to_reset.pop(peer) for peer in list(self._to_reset)}
        return {endpoint: reason for endpoint, reason in found.items() if endpoint}

    def forget(self, known: Iterable[Endpoint], but: Container[Endpoint]) -> None:
        """Remove the peers of `known` that are not in `but`, because their connections have ended."""
        now = monotonic()
        for buckets in (self._cancelled, self._aborted):
            for key in [key for key, bucket in list(buckets.items()) if bucket.is_full(now)]:
                buckets.pop(key)
        gone = {endpoint for endpoint in known if endpoint not in but}
        for peer in list(self._by_peer) if gone else ():
            if endpoint_of(peer) in gone:
                del self._by_peer[peer]


def _ignore(size_bytes: int) -> None:
    del size_bytes
