"""What the connections of one address may send over HTTP before their requests are authenticated.

Some bodies are expensive to parse: a MiB of chunks of one byte takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from libs.common.rpc.token_bucket import TokenBucket

# The first bytes of each request are charged as its start, and the others as a body.
_START_BYTES = 16 * 1024

# The largest debt is four seconds' worth: a client may send thousands of requests in one piece (pipelining, RFC 9112,
# section 9.3.2), whose cost is known only when they are read.
_BYTES, _BYTES_PER_SECOND, _LARGEST_DEBT_BYTES = 1024**2, 512 * 1024, 2 * 1024**2
# What a request costs beyond its bytes until it is authenticated: an address may make 256, and 128 more each second.
_REQUEST_BYTES = 4 * 1024
_SHORTEST_SECONDS = 0.001
Release = Callable[[], None]


class ThrottledQueue:
    """Delays the data of connections while a token bucket is in debt, first in, first out."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(_BYTES, _BYTES_PER_SECOND, monotonic(), _LARGEST_DEBT_BYTES)
        # A dict instead of a deque, because connections are also removed from the middle.
        self._waiting: dict[object, Release] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_unused(self) -> bool:
        """Whether it is as it was at the beginning."""
        return not self._waiting and self._bucket.is_full(monotonic())

    def charge(self, size_bytes: int) -> None:
        """Count bytes."""
        self._bucket.take(size_bytes, monotonic())

    def refund(self, size_bytes: int) -> None:
        """Count bytes no more, because a request of their connection is authenticated."""
        self._bucket.refund(size_bytes, monotonic())

    def delays(self, connection: object, release: Release) -> bool:
        """Return whether bytes of a connection must wait. If so, `release` is called when they may pass."""
        if not self._waiting and not self._bucket.wait_seconds(monotonic()):
            return False
        self._waiting[connection] = release
        self._wait()
        return True

    def remove(self, connection: object) -> None:
        """Remove a connection, whose `release` is not called any more."""
        self._waiting.pop(connection, None)

    def _wait(self) -> None:
        if self._timer is None and self._waiting:
            wait_seconds = max(_SHORTEST_SECONDS, self._bucket.wait_seconds(monotonic()))
            self._timer = asyncio.get_running_loop().call_later(wait_seconds, self._serve)

    def _serve(self) -> None:
        self._timer = None
        try:
            while self._waiting and not self._bucket.wait_seconds(monotonic()):
                self._waiting.pop(next(iter(self._waiting)))()
        finally:
            self._wait()


class AddressLimit:
    """The limits of one address.

    Attributes:
        starts: for the first 16 KiB of requests and the cost of each request.
        bodies: for all other bytes, so that large bodies delay each other and not other requests.
    """

    def __init__(self) -> None:
        self.starts = ThrottledQueue()
        self.bodies = ThrottledQueue()

    @property
    def is_unused(self) -> bool:
        """Whether it is as it was at the beginning."""
        return self.starts.is_unused and self.bodies.is_unused


class Charges:
    """What one connection was charged.

    Args:
        limit: of its address.
        connection: identifies it among the connections of the address.
    """

    def __init__(self, limit: AddressLimit, connection: object) -> None:
        self._limit = limit
        self._connection = connection
        self._request_bytes = self._start_bytes = self._body_bytes = 0

    def begin_request(self) -> None:
        """Charge what a request costs beyond its bytes."""
        self._limit.starts.charge(_REQUEST_BYTES)
        self._start_bytes += _REQUEST_BYTES

    def end_request(self) -> None:
        """Count the next bytes as the start of a request."""
        self._request_bytes = 0

    def receive(self, size_bytes: int) -> None:
        """Charge received bytes."""
        start_bytes = min(size_bytes, max(0, _START_BYTES - self._request_bytes))
        self._request_bytes += size_bytes
        self._start_bytes += start_bytes
        self._body_bytes += size_bytes - start_bytes
        self._limit.starts.charge(start_bytes)
        self._limit.bodies.charge(size_bytes - start_bytes)

    def delays(self, release: Release) -> bool:
        """Return whether the next bytes must wait. If so, `release` is called when they may pass."""
        is_start = self._request_bytes < _START_BYTES
        return (self._limit.starts if is_start else self._limit.bodies).delays(self._connection, release)

    def stop_waiting(self) -> None:
        """Remove the connection from the queues."""
        self._limit.starts.remove(self._connection)
        self._limit.bodies.remove(self._connection)

    def refund(self) -> None:
        """Return all charges, because a request of the connection is authenticated, and stop waiting."""
        self._limit.starts.refund(self._start_bytes)
        self._limit.bodies.refund(self._body_bytes)
        self.stop_waiting()
