"""procrastinate: a job that checks and defers itself again. Source: procrastinate.readthedocs.io, how-to guides."""

from __future__ import annotations

import asyncio

import aiohttp
import procrastinate

from bench.poller.scenario import BASE, READY, Scenario

SCENARIO = Scenario.from_environment()
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=SCENARIO.database_url))
session: aiohttp.ClientSession


@app.task(queue="polls")
async def poll(number: int) -> None:
    """One check."""
    async with session.get(SCENARIO.check_url(number)) as reply:
        status = (await reply.json())["status"]
    if status != "Ready":
        await poll.configure(schedule_in={"seconds": SCENARIO.interval_seconds}).defer_async(number=number)


async def main() -> None:
    """Hand in all tasks and work."""
    global session
    async with app.open_async(), aiohttp.ClientSession() as session:
        await app.schema_manager.apply_schema_async()
        print(BASE, flush=True)
        first = procrastinate.utils.utcnow()
        for start in range(0, SCENARIO.tasks, 500):
            numbers = range(start, min(start + 500, SCENARIO.tasks))
            for number in numbers:
                wait = procrastinate.utils.datetime.timedelta(seconds=SCENARIO.first_wait_seconds(number))
                await poll.configure(schedule_at=first + wait).defer_async(number=number)
        print(READY, flush=True)
        # Jobs for later are found by looking: every five seconds by default, which would be all of the lateness.
        await app.run_worker_async(
            concurrency=SCENARIO.concurrency, fetch_job_polling_interval=0.25, delete_jobs="always"
        )


asyncio.run(main())
