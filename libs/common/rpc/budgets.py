"""Bytes that somebody may send: so many at once, and so many more each second."""

from __future__ import annotations


class Budget:
    """What is left of it.

    Args:
        most: bytes at once.
        per_second: bytes that come back each second.
        now: the time in seconds, of any clock that does not go back.
    """

    def __init__(self, most: int, per_second: int, now: float) -> None:
        self._most = most
        self._per_second = per_second
        self._left: float = most
        self._at = now

    def spend(self, size_bytes: int, now: float) -> bool:
        """Count some; whether they were too many."""
        self._look(now)
        self._left -= size_bytes
        return self._left < 0

    def give_back(self, size_bytes: int, now: float) -> None:
        """Count no longer what was spent."""
        self._look(now)
        self._left = min(self._most, self._left + size_bytes)

    def wait_seconds(self, now: float) -> float:
        """How long it takes until something may be sent again; 0: it may be now."""
        self._look(now)
        return max(0.0, -self._left / self._per_second)

    def is_whole(self, now: float) -> bool:
        """Whether nothing has been sent for long."""
        self._look(now)
        return self._left >= self._most

    def _look(self, now: float) -> None:
        self._left = min(self._most, self._left + self._per_second * (now - self._at))
        self._at = now
