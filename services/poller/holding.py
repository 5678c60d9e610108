"""What polling and storing have in common: a window of claimed work, leases to keep, outcomes to write, an end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from libs.common.coalesce import GroupWriter
from services.poller.window import Window

Outcome = TypeVar("Outcome")
# Under load outcomes wait so long for company; a lone one waits for nobody.
_LINGER_SECONDS = 0.2


class Leases(Protocol):
    """The leases of one process."""

    async def renew(self) -> None:
        """Prolong all of them."""

    async def give_back(self) -> None:
        """End all of them."""


class Holding(Generic[Outcome]):
    """Work that this process holds.

    Args:
        writer: the name of the writer of its outcomes, for metrics.
        leases: those of the claimed rows.
        end: writes outcomes; in the order given, whether each still held its lease.
        drain_seconds: what work under way gets at a stop.
    """

    def __init__(
        self,
        writer: str,
        leases: Leases,
        end: Callable[[Sequence[Outcome]], Awaitable[Sequence[bool]]],
        *,
        drain_seconds: float,
    ) -> None:
        self.window = Window()
        self._leases = leases
        self._drain_seconds = drain_seconds
        self._outcomes: GroupWriter[Outcome, bool] = GroupWriter(
            writer, end, linger_seconds=_LINGER_SECONDS, expected=self.window.__len__
        )

    async def renew(self) -> bool:
        """Prolong the leases of all that is held."""
        if len(self.window):
            await self._leases.renew()
        return False

    async def drain(self) -> None:
        """Let what is under way end, and give back the rest."""
        await self.window.drain(self._drain_seconds)
        await self._outcomes.close()
        await self._leases.give_back()
