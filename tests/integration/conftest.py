"""A monitor and where its notices go, for tests of alerts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.database.engine import Database
from tests.support.alerting import Desk, desk
from tests.support.infrastructure import Infrastructure
from tests.support.monitors import MakeMonitor, Monitors


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Desk]:
    async with desk(tmp_path) as found:
        yield found


def _with_daily_limit(catalog: dict[str, Any]) -> None:
    catalog["providers"]["bfl"].setdefault("limits", {})["daily_spend_usd"] = 10


@pytest.fixture
async def monitor(
    database: Database, told: Desk, tmp_path: Path, shared: Infrastructure, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeMonitor]:
    for name, value in told.environment.items():
        monkeypatch.setenv(name, value)
    catalog, _ = shared.catalog(tmp_path, _with_daily_limit)
    monitors = Monitors(database, told, tmp_path, catalog)
    yield monitors.make
    await monitors.close()
