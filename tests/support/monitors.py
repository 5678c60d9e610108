"""The parts of a monitor that find and tell, over real rows and real receivers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libs.common.catalog import CatalogHolder
from libs.common.database.engine import Database
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.alerts import AlertStore
from libs.common.database.stores.deliveries import DeliveryQueue
from libs.common.database.stores.errors import ErrorStore
from libs.common.database.stores.instances import InstanceStore
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.rpc.channel import open_channel
from libs.common.settings import Settings
from libs.common.storage.objects import ObjectStore
from sandbox.plan import SHIPPED_ALERT_RULES
from services.monitor.board import Board
from services.monitor.checks import AdapterChecks, ServiceCheck, StorageCheck
from services.monitor.delivering import Delivering
from services.monitor.emergency import Emergency
from services.monitor.evaluating import Evaluating
from services.monitor.rules import RulesHolder
from services.monitor.statistics import Statistics
from tests.support.alerting import Desk, rules_text
from tests.support.rows import rows

ALWAYS_DOWN = {"threshold: 30": "threshold: 0", "threshold: 10,": "threshold: 0,"}
"""Changes of the shipped rules, so that what is down is so at once."""


@dataclass
class Monitor:
    """The parts of a monitor that find and tell, over a database of their own."""

    database: Database
    evaluating: Evaluating
    delivering: Delivering
    statistics: Statistics
    board: Board

    async def turn(self) -> None:
        """All that its loops do, once."""
        await self.statistics.fold()
        await self.board.look()
        await self.evaluating.evaluate()
        await self.delivering.deliver()
        await self.delivering.drain()

    async def alerts(self) -> list[dict[str, Any]]:
        """All alerts, the oldest first."""
        return await rows(self.database, "SELECT * FROM system_alerts ORDER BY id")


MakeMonitor = Callable[..., Awaitable[Monitor]]


class Monitors:
    """Makes them, and closes what they have opened.

    Args:
        database: of their own.
        told: where their notices go.
        folder: for their files.
        catalog: the file of one.
    """

    def __init__(self, database: Database, told: Desk, folder: Path, catalog: Path) -> None:
        self._database, self._told, self._folder, self._catalog = database, told, folder, catalog
        self._closers: list[Callable[[], Awaitable[None]]] = []

    async def make(self, *, changes: Mapping[str, str] | None = None, settings: Settings | None = None) -> Monitor:
        """One with the shipped rules, changed so. `settings`: it also looks at their storage and their poller."""
        catalog, rules = CatalogHolder(self._catalog), RulesHolder(self._rules(changes or {}))
        counts = StatisticsStore(self._database)
        adapters = AdapterChecks(catalog, AccountStore(self._database), counts)
        checks: list[Any] = [adapters]
        if settings is not None:
            objects, channel = ObjectStore(settings), open_channel(settings.poller_address, settings)
            checks += [StorageCheck(objects), ServiceCheck("poller", channel)]
            self._closers += [objects.close, channel.close]
        board = Board(checks)
        emergency = Emergency(board, rules, console_url=None)
        self._closers += [adapters.close, board.close, *(one.close for one in rules.current.channels.values())]
        queue = DeliveryQueue(self._database, owner="test", lease_seconds=30)
        return Monitor(
            self._database,
            Evaluating(AlertStore(self._database, owner="test"), rules, catalog, board, emergency),
            Delivering(queue, rules, console_url="https://console.example"),
            Statistics(counts, counts, ErrorStore(self._database), InstanceStore(self._database)),
            board,
        )

    async def close(self) -> None:
        """Close all."""
        for close in self._closers:
            await close()

    def _rules(self, changes: Mapping[str, str]) -> Path:
        text = rules_text(SHIPPED_ALERT_RULES.read_text(), self._told)
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        path = self._folder / "alerts.yaml"
        path.write_text(text)
        return path
