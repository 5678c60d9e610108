"""What polling and storing have in common: a window of claimed work, leases to keep, outcomes to write, an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from libs.common.coalesce import GroupWriter
from services.poller.window import Window

Outcome = TypeVar("Outcome")
Written = TypeVar("Written")
# Under load outcomes wait so long for company; a lone one waits for nobody.
_LINGER_SECONDS = 0.2


class Leases(Protocol):
    """The leases of one process."""

    async def renew(self) -> None:
        """Prolong all of them."""

    async def give_back(self, *, busy: Sequence[str] = ()) -> None:
        """End all of them but for those of the generations `busy`."""


class Holding(Generic[Outcome, Written]):
    """Work that this process holds.

    Args:
        writer: the name of the writer of its outcomes, for metrics.
        leases: those of the claimed rows.
        end: writes outcomes; in the order given, what became of each.
        drain_seconds: what work under way gets at a stop.
    """

    def __init__(
        self,
        writer: str,
        leases: Leases,
        end: Callable[[Sequence[Outcome]], Awaitable[Sequence[Written]]],
        *,
        drain_seconds: float,
    ) -> None:
        self.window = Window()
        self._leases = leases
        self._drain_seconds = drain_seconds
        self._outcomes: GroupWriter[Outcome, Written] = GroupWriter(
            writer, end, linger_seconds=_LINGER_SECONDS, expected=self.window.__len__
        )

    async def renew(self) -> bool:
        """Prolong the leases of all that is held."""
        if len(self.window):
            await self._leases.renew()
        return False

    async def drain(self) -> None:
        """Give back at once what has not begun; let what is under way end."""
        await self._leases.give_back(busy=self.window.stop())
        await self.window.drain(self._drain_seconds)
        await self._outcomes.close()
        await self._leases.give_back()
