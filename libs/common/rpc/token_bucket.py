"""A token bucket for bytes or calls: limits a rate and permits bursts.

Source: https://en.wikipedia.org/wiki/Token_bucket.
"""

from __future__ import annotations

from math import inf


class TokenBucket:
    """Counts bytes or calls. It may go into debt, because they are counted after they were received.

    Args:
        capacity: the largest burst.
        per_second: what is added each second.
        now: the current time of a monotonic clock, in seconds, as for all methods.
        debt: the largest debt. None: unlimited.
    """

    def __init__(self, capacity: int, per_second: int, now: float, debt: int | None = None) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._left: float = capacity
        self._at = now
        self._least = -inf if debt is None else -debt

    def take(self, amount: int, now: float) -> bool:
        """Take an amount out. Return whether the bucket is in debt."""
        self._refill(now)
        self._left = max(self._left - amount, self._least)
        return self._left < 0

    def refund(self, amount: int, now: float) -> None:
        """Put an amount back that was taken."""
        self._refill(now)
        self._left = min(self._capacity, self._left + amount)

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
