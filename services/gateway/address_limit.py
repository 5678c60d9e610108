"""What the connections of one address may send over HTTP before their requests are authenticated.

Some bodies are expensive to parse: a MiB of chunks of one byte takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from libs.common.rpc.token_bucket import TokenBucket

BEGINNING_BYTES = 16 * 1024
"""Of each request so many bytes are charged as its beginning, and the others as a body."""

# The largest debt is four seconds' worth: a client may send thousands of requests in one piece (pipelining, RFC 9112,
# section 9.3.2), whose cost is known only when they are read.
_BYTES, _BYTES_PER_SECOND, _LARGEST_DEBT_BYTES = 1024**2, 512 * 1024, 2 * 1024**2
# What a request costs beyond its bytes until it is authenticated: an address may make 256, and 128 more each second.
_REQUEST_BYTES = 4 * 1024
_SHORTEST_SECONDS = 0.001
LetGo = Callable[[], None]


class Turns:
    """Holds data back while a token bucket is in debt. The first to wait are the first to go."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(_BYTES, _BYTES_PER_SECOND, monotonic(), _LARGEST_DEBT_BYTES)
        # A dict in the place of a queue, for connections also leave from the middle.
        self._waiting: dict[object, LetGo] = {}
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

    def holds(self, connection: object, let_go: LetGo) -> bool:
        """Return whether data must be held back. If so, `let_go` is called once when it may go, unless it leaves."""
        if not self._waiting and not self._bucket.wait_seconds(monotonic()):
            return False
        self._waiting[connection] = let_go
        self._wait()
        return True

    def leave(self, connection: object) -> None:
        """Call the connection's `let_go` no more."""
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
        beginnings: of the first 16 KiB of requests, and of what requests cost.
        bodies: of the rest, so that large bodies delay each other and not other requests.
    """

    def __init__(self) -> None:
        self.beginnings = Turns()
        self.bodies = Turns()

    @property
    def is_unused(self) -> bool:
        """Whether it is as it was at the beginning."""
        return self.beginnings.is_unused and self.bodies.is_unused


class Charges:
    """What one connection was charged.

    Args:
        limit: of its address.
        connection: who it is among the connections of the address.
    """

    def __init__(self, limit: AddressLimit, connection: object) -> None:
        self._limit = limit
        self._connection = connection
        self._request_bytes = self._beginning_bytes = self._body_bytes = 0

    def begin_request(self) -> None:
        """Charge what a request costs beyond its bytes."""
        self._limit.beginnings.charge(_REQUEST_BYTES)
        self._beginning_bytes += _REQUEST_BYTES

    def end_request(self) -> None:
        """Count the next bytes as the beginning of a request."""
        self._request_bytes = 0

    def receive(self, size_bytes: int) -> None:
        """Charge received bytes."""
        beginning_bytes = min(size_bytes, max(0, BEGINNING_BYTES - self._request_bytes))
        self._request_bytes += size_bytes
        self._beginning_bytes += beginning_bytes
        self._body_bytes += size_bytes - beginning_bytes
        self._limit.beginnings.charge(beginning_bytes)
        self._limit.bodies.charge(size_bytes - beginning_bytes)

    def holds(self, let_go: LetGo) -> bool:
        """Return whether the next bytes must wait. If so, `let_go` is called once when they may go."""
        is_beginning = self._request_bytes < BEGINNING_BYTES
        return (self._limit.beginnings if is_beginning else self._limit.bodies).holds(self._connection, let_go)

    def leave(self) -> None:
        """Wait no more."""
        self._limit.beginnings.leave(self._connection)
        self._limit.bodies.leave(self._connection)

    def refund(self) -> None:
        """Return everything, because a request of the connection is authenticated, and wait no more."""
        self._limit.beginnings.refund(self._beginning_bytes)
        self._limit.bodies.refund(self._body_bytes)
        self.leave()
