"""Fixtures of integration tests: a monitor and where its notices go, and the stack of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from libs.common.database.engine import Database
from tests.support.alerting import Desk, desk
from tests.support.infrastructure import Infrastructure
from tests.support.monitors import MakeMonitor, Monitors
from tests.support.rows import opened
from tests.support.running import Running
from tests.support.simulator import Simulator
from tests.support.stacks import StackOfModule


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


@pytest.fixture
async def stack(module_stack: StackOfModule, simulator: Simulator) -> AsyncIterator[Running]:
    """The stack of the module, which defines `module_stack`; the simulated providers have forgotten other tests."""
    found = Running(module_stack.stack)
    yield found
    await found.close()


@pytest.fixture
async def stack_database(module_stack: StackOfModule) -> AsyncIterator[Database]:
    """The database of the module's stack."""
    async with opened(module_stack.database_url) as found:
        yield found
