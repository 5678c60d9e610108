"""What owners have put into object storage today by PreprocessImage, which no quota counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from libs.common.errors import ErrorCode, GenerationError


class KeptBytes:
    """Counts bytes by owner, from midnight to midnight (UTC), in this gateway.

    Args:
        limit_bytes: of one owner on one day.
        now: the time.
    """

    def __init__(self, limit_bytes: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._limit_bytes = limit_bytes
        self._now = now
        self._day = date.min
        self._kept: Counter[str] = Counter()

    def take(self, owner: str, size_bytes: int) -> None:
        """Count what is about to be kept. RATE_LIMITED, until midnight, where it is too much."""
        now = self._now()
        if now.date() != self._day:
            self._day, self._kept = now.date(), Counter()
        if self._kept[owner] + size_bytes > self._limit_bytes:
            midnight = datetime.combine(self._day + timedelta(days=1), time(), UTC)
            raise GenerationError(
                ErrorCode.RATE_LIMITED,
                f"At most {self._limit_bytes:,} bytes of an owner's images are kept in object storage a day (UTC).",
                {"limit_bytes": self._limit_bytes, "used_bytes": self._kept[owner]},
                retry_after_seconds=(midnight - now).total_seconds(),
            )
        self._kept[owner] += size_bytes
