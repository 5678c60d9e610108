"""Claimed work of a poller: the window of claims, their leases, the writer of outcomes, and the stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Protocol, TypeVar

from libs.common.coalesce import GroupWriter
from libs.common.database.records import Lease
from libs.common.loops import Loop
from libs.common.outcome_writer import OutcomeWriter
from libs.common.settings import Settings
from services.poller.window import Window

Outcome = TypeVar("Outcome")
Written = TypeVar("Written")
# How long an outcome waits for others that share its commit, while others are expected.
_LINGER_SECONDS = 0.2


class LeaseStore(Protocol):
    """Writes the leases of one process."""

    async def renew(self, claims: Sequence[Lease]) -> None:
        """Renew the leases of these claims. Claims that this process has lost are ignored."""

    async def give_back(self, claims: Sequence[Lease]) -> None:
        """End the leases of these claims. Claims that this process has lost are ignored."""


class Holding(Generic[Outcome, Written]):
    """Claims that this process holds.

    Args:
        writer: the name of the writer of their outcomes, for metrics.
        leases: writes the leases of the claimed rows.
        end: writes outcomes, and returns the result of each in the order given.
        settings: after how long a lease expires, and how long work in progress may take after a stop.
    """

    def __init__(
        self,
        writer: str,
        leases: LeaseStore,
        end: Callable[[Sequence[Outcome]], Awaitable[Sequence[Written]]],
        settings: Settings,
    ) -> None:
        self.window = Window()
        self._leases = leases
        self._settings = settings
        self._outcomes: OutcomeWriter[Outcome, Written] = OutcomeWriter(
            GroupWriter(writer, end, linger_seconds=_LINGER_SECONDS, expected=self.window.__len__)
        )

    def wake(self) -> None:
        """Claim now rather than at the next interval."""
        if self.window.refill is not None:
            self.window.refill.wake()

    async def renew(self) -> bool:
        """Renew the leases of the claims that are held, and of no others. One iteration of a loop."""
        claims = self.window.held()
        if claims:
            await self._leases.renew(claims)
        return False

    async def drain(self) -> None:
        """Give back the claims whose work has not begun, then wait for work in progress to end."""
        await self._leases.give_back(self.window.stop())
        # The loops of the service have stopped by now.
        renewing = Loop("drain", self.renew, interval_seconds=self._settings.lease_seconds / 3)
        renewing.start()
        left = await self.window.drain(self._settings.drain_seconds)
        await renewing.stop()
        await self._outcomes.close()
        await self._leases.give_back(left)
