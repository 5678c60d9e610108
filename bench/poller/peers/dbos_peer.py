"""DBOS: a durable workflow for each task, that checks in a step and sleeps. Source: docs.dbos.dev, workflows."""

from __future__ import annotations

import asyncio

import aiohttp
from dbos import DBOS

from bench.poller.scenario import BASE, READY, Scenario

SCENARIO = Scenario.from_environment()
DBOS(config={"name": "bench", "system_database_url": SCENARIO.database_url, "run_admin_server": False})
session: aiohttp.ClientSession
handed_in: asyncio.Event


@DBOS.step()
async def check(number: int) -> str:
    """One check."""
    async with session.get(SCENARIO.check_url(number)) as reply:
        return str((await reply.json())["status"])


@DBOS.workflow()
async def follow(number: int) -> None:
    """A task from its first poll to its end."""
    # All are handed in before the first begins, as with the others.
    await handed_in.wait()
    await DBOS.sleep_async(SCENARIO.first_wait_seconds(number))
    while await check(number) != "Ready":
        await DBOS.sleep_async(SCENARIO.interval_seconds)


async def main() -> None:
    """Start all workflows and wait for them."""
    global session, handed_in
    DBOS.launch()
    handed_in = asyncio.Event()
    async with aiohttp.ClientSession() as session:
        print(BASE, flush=True)
        for number in range(SCENARIO.tasks):
            await DBOS.start_workflow_async(follow, number)
        print(READY, flush=True)
        handed_in.set()
        await asyncio.Event().wait()


asyncio.run(main())
