"""Ranges of ids, by which a statement tells Postgres which months it is about: for all others it plans nothing.

A statement over a table by month that says nothing of its ids is planned for each partition, with all indexes, and
takes a lock on each. Those that run all the time say it: with the ids themselves where they are known, else with the
range in which everything lies that is under way.

Neither may look like a way to find rows that it is not. Of a month that has just begun Postgres knows nothing, and
takes any range, and any state, for a few rows: it would read the range, or all of the state, for each row of something
else. So rows are found by an array of ids, known (`id = ANY(:ids)`) or looked up (`id = ANY(ARRAY(SELECT …))`), and
beside one their state is compared in a way that no index serves (`IS NOT DISTINCT FROM`).
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

    @property
    def parameters(self) -> dict[str, str]:
        """What `IN_RANGE` asks for, to look there."""
        return self.range.parameters

    def hear(self, found: IdRange) -> None:
        """Take what was found just now."""
        self._range = found
        self._believed_until = monotonic() + _BELIEVED_SECONDS

    def reaching(self, ids: Iterable[str]) -> IdRange:
        """The range to look in for these, whether they are under way or not, and for what came after them."""
        known = [*ids]
        return IdRange(min([self.range.first, *known]), max([self.range.last, *known]))
