"""pgqueuer: a job that checks and enqueues itself for later. Source: pgqueuer.readthedocs.io."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import aiohttp
import asyncpg
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgPoolDriver

from bench.poller.scenario import BASE, READY, Scenario

SCENARIO = Scenario.from_environment()


async def main() -> None:
    """Hand in all tasks and work."""
    async with (
        asyncpg.create_pool(SCENARIO.database_url, min_size=2, max_size=8) as pool,
        aiohttp.ClientSession() as session,
    ):
        driver = AsyncpgPoolDriver(pool)
        queries = Queries(driver)
        await queries.install()
        queue = PgQueuer(driver)

        @queue.entrypoint("poll", concurrency_limit=SCENARIO.concurrency)
        async def poll(job: Any) -> None:
            async with session.get(SCENARIO.check_url(int(job.payload))) as reply:
                status = (await reply.json())["status"]
            if status != "Ready":
                await queries.enqueue("poll", job.payload, execute_after=timedelta(seconds=SCENARIO.interval_seconds))

        print(BASE, flush=True)
        for start in range(0, SCENARIO.tasks, 1_000):
            numbers = range(start, min(start + 1_000, SCENARIO.tasks))
            await queries.enqueue(
                ["poll"] * len(numbers),
                [str(number).encode() for number in numbers],
                [0] * len(numbers),
                [timedelta(seconds=SCENARIO.first_wait_seconds(number)) for number in numbers],
            )
        print(READY, flush=True)
        await queue.run(dequeue_timeout=timedelta(seconds=0.25), batch_size=SCENARIO.concurrency)


asyncio.run(main())
