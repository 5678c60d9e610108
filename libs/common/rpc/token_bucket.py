"""A token bucket for bytes: limits a rate and permits bursts. Source: https://en.wikipedia.org/wiki/Token_bucket."""

from __future__ import annotations


class TokenBucket:
    """Counts bytes. It may go into debt, because bytes are counted after they were received.

    Args:
        capacity: the largest burst, in bytes.
        per_second: bytes that are added each second.
        now: the current time of a monotonic clock, in seconds, as for all methods.
    """

    def __init__(self, capacity: int, per_second: int, now: float) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._left: float = capacity
        self._at = now

    def take(self, size_bytes: int, now: float) -> bool:
        """Take bytes out. Return whether the bucket is in debt."""
        self._refill(now)
        self._left -= size_bytes
        return self._left < 0

    def refund(self, size_bytes: int, now: float) -> None:
        """Put bytes back that were taken."""
        self._refill(now)
        self._left = min(self._capacity, self._left + size_bytes)

    def wait_seconds(self, now: float) -> float:
        """Return the seconds until the bucket is out of debt; 0 if it is not in debt."""
        self._refill(now)
        return max(0.0, -self._left / self._per_second)

    def is_full(self, now: float) -> bool:
        """Return whether the bucket is as it was at the beginning."""
        self._refill(now)
        return self._left >= self._capacity

    def _refill(self, now: float) -> None:
        self._left = min(self._capacity, self._left + self._per_second * (now - self._at))
        self._at = now
