"""A process that is told to stop gives back at once what it has not begun, and lets the rest end."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import aiohttp

from libs.common.database.engine import Database
from tests.conftest import StartStack, quick
from tests.support.console import visitor
from tests.support.rows import rows
from tests.support.running import SUCCESS
from tests.support.simulator import Simulator, simulated
from tests.support.waiting import eventually, promptly

PLACES = 5


async def _leased(database: Database) -> int:
    (row,) = await rows(database, "SELECT count(*) AS count FROM poll_tasks WHERE lease_owner IS NOT NULL")
    return int(row["count"])


async def test_a_poller_gives_back_the_tasks_that_it_has_claimed_ahead(
    start_stack: StartStack, simulator: Simulator, database: Database
) -> None:
    def narrow(catalog: dict[str, Any]) -> None:
        quick(catalog)
        catalog["providers"]["bfl"]["limits"] = {"concurrent_checks": PLACES, "check_timeout_seconds": 60}

    await simulator.behave(task_seconds=0.0, active_tasks_limit=100)
    settings = {"DARKROOM_DRAIN_SECONDS": "8", "DARKROOM_LEASE_SECONDS": "60"}
    running = await start_stack(adjust=narrow, settings=settings)
    hanging = [{"operation": "check", "kind": "timeout", "times": 1}]
    for number in range(PLACES):
        await running.create("flux-pro", simulated(f"hangs {number}", faults=hanging))

    async def leases(count: int) -> bool:
        return await _leased(database) == count

    await eventually(lambda: leases(PLACES), within=15, what="all places are taken")
    ids = [await running.create("flux-pro", simulated(f"fine {number}")) for number in range(2 * PLACES)]

    async def ahead() -> bool:
        return await _leased(database) > PLACES

    await eventually(ahead, within=15, what="more is claimed than has places")
    running.stack.children["poller"].send(signal.SIGTERM)

    await promptly(lambda: leases(PLACES), within=3, what="it has given back what it has not begun")
    assert running.stack.children["poller"].exit_code is None
    # The checks under way would take a minute: somebody else goes on meanwhile.
    await running.stack_replica("poller")
    for generation_id in ids:
        assert (await running.ended(generation_id)).status == SUCCESS


async def test_a_gateway_tells_http_clients_to_leave_and_ends_live_pages_before_it_stops(
    start_stack: StartStack,
) -> None:
    settings = {
        "DARKROOM_DRAIN_DELAY_SECONDS": "2",
        "DARKROOM_DRAIN_SECONDS": "60",
        "DARKROOM_CONSOLE_LIVE_SECONDS": "0.2",
    }
    running = await start_stack(services=("gateway",), settings=settings)
    gateway, url = running.stack.children["gateway"], running.gateway_url()
    async with visitor(url) as operator, aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as http:
        await operator.sign_in(running.admin_key)
        cookies = "; ".join(f"{name}={value}" for name, value in operator.cookies.items())
        headers = {"accept": "text/event-stream", "cookie": cookies}
        async with http.get("/admin", headers=headers, timeout=aiohttp.ClientTimeout(total=60)) as page:
            assert page.content_type == "text/event-stream"
            await page.content.readline()
            async with http.get("/api/health") as before:
                assert "connection" not in before.headers
            gateway.send(signal.SIGTERM)

            async def is_told() -> bool:
                async with http.get("/api/health") as answer:
                    return answer.headers.get("connection") == "close"

            await promptly(is_told, within=2, what="clients are told to leave while they are still answered")
            await page.content.read()
        assert await asyncio.to_thread(gateway.wait, 20) == 0
