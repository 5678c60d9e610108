"""Nobody waits for somebody else's crowd: neither for another key's, nor for another provider's."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.database.engine import Database
from tests.conftest import StartStack, quick
from tests.support.rows import insert, new_generation, rows
from tests.support.running import Running
from tests.support.simulator import Simulator
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

LATENESS = "darkroom_poller_lateness_seconds_bucket"
ROUNDS = 3


def _narrow(catalog: dict[str, Any]) -> None:
    quick(catalog)
    catalog["providers"]["bfl"]["limits"] = {"concurrent_submits": 20, "concurrent_tasks": 20, "concurrent_checks": 20}


@pytest.mark.timeout(300)
async def test_a_key_with_ten_requests_does_not_wait_for_one_with_five_thousand(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    await simulator.behave(task_seconds=0.2, active_tasks_limit=100)
    crowd = [new_generation(api_key_id="key_crowd", parameters={"size_or_ratio": "256x256"}) for _ in range(5_000)]
    for start in range(0, len(crowd), 1_000):
        await insert(database, crowd[start : start + 1_000])
    await start_stack(adjust=_narrow, settings={"DARKROOM_LOG_LEVEL": "info"})

    async def crowd_is_served() -> bool:
        (row,) = await rows(database, "SELECT count(*) AS count FROM generation_requests WHERE state = 'SUCCESS'")
        return bool(row["count"] >= 20)

    await eventually(crowd_is_served, within=30, what="the crowd is being served")
    few = [new_generation(api_key_id="key_few", parameters={"size_or_ratio": "256x256"}) for _ in range(10)]
    await insert(database, few)

    async def few_are_submitted() -> bool:
        (row,) = await rows(
            database,
            "SELECT count(*) AS count FROM generation_requests WHERE api_key_id = 'key_few' AND attempts > 0",
        )
        return bool(row["count"] == 10)

    await eventually(few_are_submitted, within=60, what="all ten were submitted")
    found = await rows(
        database,
        "SELECT api_key_id, count(*) AS count, count(*) FILTER (WHERE submitted_at IS NULL) AS waiting, "
        "max(EXTRACT(EPOCH FROM submitted_at - created_at)) AS longest "
        "FROM generation_requests GROUP BY 1 ORDER BY 1",
    )
    waits = {row["api_key_id"]: row for row in found}
    between = await rows(
        database,
        "SELECT count(*) AS count FROM generation_requests WHERE api_key_id = 'key_crowd' AND submitted_at BETWEEN "
        "(SELECT min(created_at) FROM generation_requests WHERE api_key_id = 'key_few') AND "
        "(SELECT max(submitted_at) FROM generation_requests WHERE api_key_id = 'key_few')",
    )
    print(
        f"the few waited {float(waits['key_few']['longest']):.1f} s at the most; meanwhile {between[0]['count']} of "
        f"the crowd were submitted, and {waits['key_crowd']['waiting']} of it still wait"
    )
    # In turns: what of the crowd goes before them is a share of the places, not the whole of it.
    assert between[0]["count"] <= 100
    assert waits["key_crowd"]["waiting"] > 4_000


@pytest.mark.timeout(300)
async def test_a_provider_that_takes_a_minute_to_answer_delays_no_other(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    def slow_and_fast(catalog: dict[str, Any]) -> None:
        quick(catalog)
        for name in ("bfl", "fal"):
            catalog["providers"][name]["limits"] = {"concurrent_checks": 20, "check_timeout_seconds": 60}

    await simulator.behave(task_seconds=3.0, active_tasks_limit=1_000)
    running = await start_stack(adjust=slow_and_fast, settings={"DARKROOM_LOG_LEVEL": "info"})
    # Its checks are never answered: each of them holds its place for a minute.
    hanging = '[sim {"faults": [{"operation": "check", "kind": "timeout"}]}]'
    for number in range(100):
        await running.create("flux-pro", f"slow {number} {hanging}", parameters={"size_or_ratio": "256x256"})

    async def slow_fills_its_places() -> bool:
        (row,) = await rows(
            database, "SELECT count(*) AS count FROM poll_tasks WHERE provider_id = 'bfl' AND lease_owner IS NOT NULL"
        )
        return bool(row["count"] > 40)

    await eventually(slow_fills_its_places, within=20, what="the slow provider's tasks fill its places")
    # A busy machine makes one round late now and then, a provider that hangs would make all of them so.
    shares = [await _share_late(running) for _ in range(ROUNDS)]
    print(f"shares of polls more than a second late beside a provider that hangs: {shares}")
    assert min(shares) <= 0.01
    assert await running.metric("poller", LATENESS, provider="fal", le="10.0") == await _polls(running)


async def _share_late(running: Running) -> float:
    """Of the polls of fifty tasks, how many came more than a second late."""
    before = [await _polls(running), await running.metric("poller", LATENESS, provider="fal", le="1.0")]
    ids = [await running.create("flux-dev-fal", f"fast {number}") for number in range(50)]
    for generation_id in ids:
        await running.ended(generation_id, within=30)
    after = [await _polls(running), await running.metric("poller", LATENESS, provider="fal", le="1.0")]
    polls, in_time = (later - earlier for later, earlier in zip(after, before, strict=True))
    assert polls >= 100
    return (polls - in_time) / polls


async def _polls(running: Running) -> float:
    return await running.metric("poller", "darkroom_poller_lateness_seconds_count", provider="fal")
