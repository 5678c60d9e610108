"""A load of short tasks, and which replica did how much of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import aiohttp
import sqlalchemy as sa
from rich.table import Table

from bench.batches.stack import picture, running, upload
from bench.usage import Usage
from libs.common.database.engine import Database
from libs.common.settings import ServiceName
from sandbox.launcher import Stack

_WORKERS: tuple[ServiceName, ...] = ("dispatcher", "poller")
_SAMPLE = re.compile(r'^darkroom_(claimed_total\{kind="(\w+)"\}|database_statements_total) (\S+)$', re.MULTILINE)
_LOOK_SECONDS = 0.2
_AT_ONCE = 10_000
_STATEMENTS = "statements"
_SHARES = (
    ("dispatcher", "generation", "submits"),
    ("poller", "task", "polls"),
    ("poller", "result", "results stored"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run showed. `claimed`: by replica, its claims by what was claimed."""

    replicas: int
    generations: int
    seconds: float
    statements: float
    cpu_seconds: float
    claimed: Mapping[str, Mapping[str, float]]
    bills: int
    succeeded: int

    @property
    def rate(self) -> float:
        """Generations in a second, from the first handed in to the last stored."""
        return self.generations / self.seconds


async def measured(
    folder: Path, replicas: int, generations: int, task_seconds: float, tell: Callable[[str], None]
) -> Measured:
    """One run on a fresh stack with so many dispatchers and pollers."""
    async with running(folder, places=None, webhooks=False) as where:
        names = [name for worker in _WORKERS for name in await _replicas(where.stack, worker, replicas)]
        await where.behave(task_seconds=task_seconds, active_tasks_limit=generations)
        database = Database(
            where.stack.environment["DARKROOM_DATABASE_URL"],
            size=1,
            statement_timeout_seconds=30,
            application_name="bench",
        )
        usage = Usage(tuple(where.stack.children[name].pid for name in names))
        usage.start()
        before = {name: await _counters(where.stack, name) for name in names}
        started = monotonic()
        requests = [picture(f"number {number}") for number in range(generations)]
        # No more than a batch may have at work; its own bound is not what is measured.
        await upload(where.gateway, requests, max_concurrency=min(generations, _AT_ONCE))
        tell(f"{replicas} of each: {generations:,} requests taken in")
        succeeded = await _succeeded(database, generations)
        seconds = monotonic() - started
        after = {name: await _counters(where.stack, name) for name in names}
        ledger = await where.ledger()
        await database.close()
        tell(f"{replicas} of each: {generations / seconds:.1f} generations/s")
        grown = {
            name: {counter: value - before[name].get(counter, 0.0) for counter, value in after[name].items()}
            for name in names
        }
        return Measured(
            replicas=replicas,
            generations=generations,
            seconds=seconds,
            statements=sum(count[_STATEMENTS] for count in grown.values()),
            cpu_seconds=usage.cpu_seconds,
            claimed=grown,
            bills=len(ledger["bills"]),
            succeeded=succeeded,
        )


def figures(found: Sequence[Measured]) -> Table:
    """All runs beside each other, and their ratio to the first."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("figure")
    for one in found:
        table.add_column(f"{one.replicas} of each", justify="right")
    rates = [f"{one.rate:.1f} ({one.rate / found[0].rate:.2f})" for one in found]
    table.add_row("generations/s (beside the first)", *rates)
    table.add_row("succeeded; bills", *(f"{one.succeeded:,}; {one.bills:,}" for one in found))
    table.add_row("statements a generation", *(f"{one.statements / one.generations:.3f}" for one in found))
    table.add_row("CPU a generation, ms", *(f"{1_000 * one.cpu_seconds / one.generations:.2f}" for one in found))
    for worker, kind, what in _SHARES:
        table.add_row(f"share of each {worker} in {what}, %", *(_shares(one, worker, kind) for one in found))
    return table


def _shares(one: Measured, worker: str, kind: str) -> str:
    claimed = [count.get(kind, 0.0) for name, count in one.claimed.items() if name.startswith(worker)]
    return ", ".join(f"{100 * count / sum(claimed):.0f}" for count in claimed)


async def _replicas(stack: Stack, worker: ServiceName, count: int) -> list[str]:
    names: list[str] = [worker, *[await asyncio.to_thread(stack.add_replica, worker) for _ in range(count - 1)]]
    for name in names:
        while not await _counters(stack, name):
            await asyncio.sleep(_LOOK_SECONDS)
    return names


async def _counters(stack: Stack, name: str) -> dict[str, float]:
    """A replica's counters; empty while it does not answer."""
    (worker,) = (worker for worker in _WORKERS if name.startswith(worker))
    moved = stack.replica_ports.get(name, {})
    port = moved.get(f"DARKROOM_{worker.upper()}_METRICS_PORT", stack.plan.ports.metrics[worker])
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as reply:
            text = await reply.text()
    except aiohttp.ClientError:
        return {}
    return {kind or _STATEMENTS: float(value) for _, kind, value in _SAMPLE.findall(text)}


async def _succeeded(database: Database, generations: int) -> int:
    """How many have succeeded, once all have ended."""
    query = sa.text("SELECT state, count(*) AS number FROM generation_requests GROUP BY 1")
    while True:
        rows = await database.transaction("bench", lambda c: list(c.execute(query)))
        states = {row.state: row.number for row in rows}
        if sum(states.get(state, 0) for state in ("SUCCESS", "FAILED", "CANCELLED")) >= generations:
            return int(states.get("SUCCESS", 0))
        await asyncio.sleep(_LOOK_SECONDS)
