"""Compares the vendors' ledger with our sums of money, repeatedly during a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aiohttp

from chaos import money
from chaos.money import Moment
from chaos.vendors import Vendors
from libs.common.database.engine import Database
from libs.common.errors import GenerationError

_EVERY_SECONDS = 15.0
_TOLD = 5
_LATE_RESULT_SECONDS = 20.0


class MoneyAudits:
    """The audits of money of one run.

    Args:
        database: the stack's database, connected without the proxy.
        vendors: the simulated vendors, which have the ledger.
        tell: called with a line about each audit.
    """

    def __init__(self, database: Database, vendors: Vendors, *, tell: Callable[[str], None]) -> None:
        self._database = database
        self._vendors = vendors
        self._tell = tell
        self.count = 0
        """The number of audits that were made."""
        self.faults: list[str] = []
        """The faults that the audits found."""
        self.late_results_missing: list[str] = []
        """The late results that were not stored although all generations had ended."""
        self.last: dict[Moment, money.Snapshot] = {}
        """The last snapshot of each moment."""
        self.owed: dict[Moment, int] = {}
        """The sum of the vendors' bills at the last audit of each moment, in micro-dollars."""

    async def watch(self) -> None:
        """Audit every 15 s while Postgres and the vendors are available, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            try:
                await self.audit(Moment.RUNNING)
            except (GenerationError, aiohttp.ClientError, OSError):
                self._tell("  no audit: the database or the vendors are away")

    async def audit(self, moment: Moment) -> None:
        """Audit now. Raises GenerationError or aiohttp.ClientError if the database or the vendors do not answer."""
        until = time.monotonic() + (0.0 if moment is Moment.RUNNING else _LATE_RESULT_SECONDS)
        while True:
            before = await self._vendors.bills()
            found = await money.snapshot(self._database)
            after = await self._vendors.bills()
            # A late result may arrive after all have ended; it reserves its money while it is being stored.
            if not found.reserved or time.monotonic() >= until:
                break
            await asyncio.sleep(1.0)
        self.count += 1
        self.last[moment], self.owed[moment] = found, money.owed(after)
        wrong = await asyncio.to_thread(money.faults, found, before, after, moment)
        if moment is Moment.RUNNING:
            wrong += money.discarded(found, before, after)
        if moment is Moment.SETTLED:
            self.late_results_missing = money.late_results_missing(found, before, time.time())
        self.faults += [f"{moment}, audit {self.count}: {fault}" for fault in wrong]
        sums = ", ".join(
            f"{name} {amount / 1e6:.6f}"
            for name, amount in (
                ("billed", self.owed[moment]),
                ("spent", found.spent),
                ("at risk", found.at_risk),
                ("reserved", found.reserved),
            )
        )
        self._tell(f"  audit ({moment}): {sums} USD, {len(wrong)} faults")
        for fault in wrong[:_TOLD]:
            self._tell(f"    {fault}")
