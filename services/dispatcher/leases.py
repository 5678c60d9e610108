"""Expiry times of the leases that this process holds, by its own monotonic clock.

A lease is counted from before the statement that claimed or renewed it was sent. So the lease expires here no later
than in the row, and a process that was paused or cut off from the database knows without a query that it may have lost
a claim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from libs.common.database.records import Lease


class Leases:
    """The leases of the claims that one dispatcher process holds.

    Args:
        lease_seconds: after how many seconds without a renewal a lease expires.
        clock: in seconds, monotonic.
    """

    def __init__(self, lease_seconds: float, *, clock: Callable[[], float] = monotonic) -> None:
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._ends: dict[Lease, float] = {}

    def begin(self, claim: Lease, *, asked_at: float) -> None:
        """Add a claim. `asked_at`: a time of the clock before the statement that made the claim was sent."""
        self._ends[claim] = asked_at + self.lease_seconds

    def renew(self, claims: Iterable[Lease], *, asked_at: float) -> None:
        """Extend leases that the database has renewed.

        Args:
            claims: whose leases the database has renewed. Claims that were not added are ignored.
            asked_at: a time of the clock before the statement that renewed them was sent.
        """
        for claim in claims:
            if claim in self._ends:
                self._ends[claim] = max(self._ends[claim], asked_at + self.lease_seconds)

    def end(self, claim: Lease) -> None:
        """Remove a claim."""
        self._ends.pop(claim, None)

    def is_held(self, claim: Lease) -> bool:
        """Whether the lease cannot have expired yet."""
        return self._clock() < self._ends.get(claim, float("-inf"))

    def permit(self, claim: Lease) -> Callable[[], bool]:
        """Begin an attempt to submit, and return a function that says whether its request may still be sent.

        The request may be sent while the lease is held, and at most `lease_seconds` from now however often the lease is
        renewed. So the time at which the attempt was recorded, which is in the row, bounds the time of the send.
        """
        ends_at = self._clock() + self.lease_seconds
        return lambda: self._clock() < ends_at and self.is_held(claim)
