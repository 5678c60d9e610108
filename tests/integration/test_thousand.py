"""A thousand generations at once: all succeed, with no more connections than the pools have."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from libs.common.database.engine import Database
from libs.common.settings import Settings
from tests.conftest import StartStack, quick
from tests.support.rows import rows
from tests.support.simulator import Simulator
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

COUNT = 1_000
POOL = Settings.model_fields["database_pool_size"].default
# Readiness looks at the database over a connection of its own.
CONNECTIONS = {"gateway": POOL + 1, "dispatcher": POOL + 1, "poller": POOL + 1}


def _roomy(catalog: dict[str, Any]) -> None:
    quick(catalog)
    catalog["models"]["flux-pro"]["polling"] = {"strategy": "fixed", "interval_seconds": 0.5}
    for provider in catalog["providers"].values():
        provider["limits"] = {"concurrent_submits": 100, "concurrent_checks": 50, "submit_timeout_seconds": 120}


async def _connections(database: Database) -> dict[str, int]:
    found = await rows(
        database,
        "SELECT split_part(application_name, '-', 2) AS service, count(*) AS count FROM pg_stat_activity "
        "WHERE application_name LIKE 'darkroom-%' AND datname = current_database() GROUP BY 1",
    )
    return {row["service"]: row["count"] for row in found}


@pytest.mark.timeout(300)
async def test_a_thousand_at_once(start_stack: StartStack, simulator: Simulator, database: Database) -> None:
    running = await start_stack(adjust=_roomy, settings={"DARKROOM_LOG_LEVEL": "info", "DARKROOM_LEASE_SECONDS": "30"})
    await simulator.behave(task_seconds=5.0, active_tasks_limit=COUNT)
    peak: Counter[str] = Counter()

    await asyncio.gather(
        *(
            running.create("flux-pro", f"picture {number % 20}", parameters={"size_or_ratio": "256x256"})
            for number in range(COUNT)
        )
    )

    async def all_ended() -> bool:
        for service, count in (await _connections(database)).items():
            peak[service] = max(peak[service], count)
        (row,) = await rows(database, "SELECT count(*) AS left FROM generation_requests WHERE ended_at IS NULL")
        return bool(row["left"] == 0)

    await eventually(all_ended, within=150, what="all have ended")
    ended = await rows(database, "SELECT state, count(*) AS count FROM generation_requests GROUP BY 1")
    assert ended == [{"state": "SUCCESS", "count": COUNT}]
    assert len(await simulator.bills()) == COUNT
    assert 1 <= await running.metric("poller", "darkroom_database_connections") <= POOL
    assert all(count <= CONNECTIONS[service.split("-")[0]] for service, count in peak.items()), peak
