"""What the connections of one address may send over HTTP before their requests are authenticated.

Some bodies are expensive to parse: a MiB of chunks of one byte takes a tenth of a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from libs.common.rpc.token_bucket import TokenBucket

# The largest debt is eight seconds' worth: a client may send thousands of requests in one piece (pipelining, RFC 9112,
# section 9.3.2), whose cost is known only when they are read.
_BYTES, _BYTES_PER_SECOND, _LARGEST_DEBT_BYTES = 1024**2, 512 * 1024, 4 * 1024**2
# Connections that have sent little wait only for what is beyond four seconds' worth of debt, so that large bodies of an
# address delay each other and not its other requests.
_LITTLE_BYTES, _LITTLE_SECONDS = 16 * 1024, 4.0
_SHORTEST_SECONDS = 0.001
LetGo = Callable[[], None]


class AddressLimit:
    """Holds data of connections back while their address is beyond its limit. The first to wait are the first to go."""

    def __init__(self) -> None:
        self._bucket = TokenBucket(_BYTES, _BYTES_PER_SECOND, monotonic(), _LARGEST_DEBT_BYTES)
        # Dicts in the place of queues, for connections also leave from the middle.
        self._little: dict[object, LetGo] = {}
        self._large: dict[object, LetGo] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_unused(self) -> bool:
        """Whether it is as it was at the beginning."""
        return not self._little and not self._large and self._bucket.is_full(monotonic())

    def charge(self, size_bytes: int) -> None:
        """Count bytes."""
        self._bucket.take(size_bytes, monotonic())

    def refund(self, size_bytes: int) -> None:
        """Count bytes no more, because a request of their connection is authenticated."""
        self._bucket.refund(size_bytes, monotonic())

    def holds(self, connection: object, spent_bytes: int, let_go: LetGo) -> bool:
        """Return whether data must be held back. If so, `let_go` is called once when it may go.

        Args:
            connection: whose data it is, for `leave`.
            spent_bytes: what the connection was charged until now.
            let_go: passes the data on.
        """
        is_little = spent_bytes <= _LITTLE_BYTES
        waiting = self._little if is_little else self._large
        if not waiting and not self._wait_seconds(is_little=is_little):
            return False
        waiting[connection] = let_go
        self._wait()
        return True

    def leave(self, connection: object) -> None:
        """Call the connection's `let_go` no more."""
        self._little.pop(connection, None)
        self._large.pop(connection, None)

    def _wait_seconds(self, *, is_little: bool) -> float:
        wait_seconds = self._bucket.wait_seconds(monotonic())
        return max(0.0, wait_seconds - _LITTLE_SECONDS) if is_little else wait_seconds

    def _wait(self) -> None:
        if self._timer is None and (self._little or self._large):
            wait_seconds = max(_SHORTEST_SECONDS, self._wait_seconds(is_little=bool(self._little)))
            self._timer = asyncio.get_running_loop().call_later(wait_seconds, self._serve)

    def _serve(self) -> None:
        self._timer = None
        for waiting in (self._little, self._large):
            while waiting and not self._wait_seconds(is_little=waiting is self._little):
                waiting.pop(next(iter(waiting)))()
        self._wait()
