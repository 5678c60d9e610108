"""The writer of outcomes that exist nowhere else: what a vendor answered, and what became of a result."""

from __future__ import annotations

from typing import Generic, TypeVar

from libs.common.coalesce import GroupWriter
from libs.common.retry import REFUSALS_LIMIT, until_database_answers

Outcome = TypeVar("Outcome")
Written = TypeVar("Written")


class OutcomeWriter(Generic[Outcome, Written]):
    """Writes outcomes again until the database takes them. Each must be fenced by its lease, so that a repeat is safe.

    No more outcomes wait than rows are held, so memory stays bounded where claims stop while `is_waiting`.

    Args:
        writer: writes outcomes in groups.
    """

    def __init__(self, writer: GroupWriter[Outcome, Written]) -> None:
        self._writer = writer
        self._waiting: set[object] = set()

    @property
    def is_waiting(self) -> bool:
        """Whether an outcome waits for the database to take it: nothing more is claimed meanwhile."""
        return bool(self._waiting)

    async def write(self, outcome: Outcome, *, refusals_limit: float = REFUSALS_LIMIT) -> Written:
        """Write one outcome, and return once it is committed.

        Args:
            outcome: what is written.
            refusals_limit: as for `until_database_answers`.

        Raises what `until_database_answers` raises, and Closed.
        """
        return await until_database_answers(
            lambda: self._writer.write(outcome), waiting=self._waiting, refusals_limit=refusals_limit
        )

    async def close(self) -> None:
        """Take nothing more, and answer once all that was given is written or has failed."""
        await self._writer.close()
