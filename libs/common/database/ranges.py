"""Ranges of ids, by which a statement tells Postgres which months it is about: for all others it plans nothing.

A statement over a table by month that says nothing of its ids is planned for each partition, with all indexes, and
takes a lock on each. Those that run all the time say it, with the narrowest range that cannot miss a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Final

IN_RANGE: Final = "BETWEEN :first_id AND :last_id"
_BELIEVED_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids of generations from `first` to `last`, both included."""

    first: str
    last: str

    @classmethod
    def of(cls, ids: Iterable[str]) -> IdRange:
        """The narrowest that has all of these; any at all, where there are none."""
        known = sorted(ids)
        return cls(known[0], known[-1]) if known else ANY

    @property
    def parameters(self) -> dict[str, str]:
        """What `IN_RANGE` asks for."""
        return {"first_id": self.first, "last_id": self.last}


ANY: Final = IdRange("gen_", "gen_zzzzzzzzzz")


class LiveIds:
    """Where everything lies that is under way or comes in now, as far as this process has heard of late.

    What has ended never changes again, and new ids are those of now. So a range that has all that is under way, and two
    days around now, misses nothing until the days have passed; a process that hears nothing for ten minutes looks
    everywhere.
    """

    def __init__(self) -> None:
        self._range = ANY
        self._believed_until = 0.0

    @property
    def range(self) -> IdRange:
        """The range to look in."""
        return self._range if monotonic() < self._believed_until else ANY

    def hear(self, found: IdRange) -> None:
        """Take what was found just now."""
        self._range = found
        self._believed_until = monotonic() + _BELIEVED_SECONDS

    def since(self, ids: Iterable[str]) -> IdRange:
        """These, and what came after them."""
        wanted = IdRange.of(ids)
        return IdRange(wanted.first, max(wanted.last, self.range.last))
