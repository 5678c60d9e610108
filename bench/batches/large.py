"""One large batch: whether its bound holds at the providers, its counters are right, and what it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

import sqlalchemy as sa
from darkroom.gateway.v1 import gateway_pb2
from rich.table import Table

from bench.batches.stack import Running, picture, running, upload
from bench.usage import Usage
from libs.common.database.engine import Database
from libs.common.settings import ServiceName
from sandbox.plan import SERVICES

_LOOK_SECONDS = 0.25
_TELL_SECONDS = 10.0


class _Watch:
    """What a stream of the batch has shown."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.seen: list[gateway_pb2.Batch] = []
        self._tell = tell
        self._told = monotonic()

    async def run(self, where: Running, batch_id: str) -> None:
        """Until the batch has ended."""
        request = gateway_pb2.WatchBatchRequest(batch_id=batch_id)
        async for change in where.gateway.WatchBatch(request):
            self.seen.append(change.batch)
            if monotonic() - self._told > _TELL_SECONDS:
                self._told = monotonic()
                self._tell(f"{change.batch.progress} %: {change.batch.completed_tasks} have succeeded")

    @property
    def goes_forward(self) -> bool:
        """Whether no step of it led back."""
        ended = [batch.completed_tasks + batch.failed_tasks for batch in self.seen]
        return ended == sorted(ended)


async def _rows(where: Running, batch_id: str) -> Counter[str]:
    url = where.stack.environment["DARKROOM_DATABASE_URL"]
    database = Database(url, size=1, statement_timeout_seconds=30, application_name="bench")
    query = sa.text("SELECT state, count(*) AS number FROM generation_requests WHERE batch_id = :id GROUP BY 1")
    try:
        found = await database.transaction("bench", lambda c: list(c.execute(query, {"id": batch_id})))
        return Counter({row.state: row.number for row in found})
    finally:
        await database.close()


async def _memory(usages: Mapping[ServiceName, Usage]) -> None:
    while True:
        for usage in usages.values():
            usage.look()
        await asyncio.sleep(_LOOK_SECONDS)


async def large(folder: Path, tasks: int, places: int, tell: Callable[[str], None]) -> Table:
    """A batch of `tasks`, of which `places` may be under way at once."""
    async with running(folder, places=None) as where:
        usages = {name: Usage((where.stack.children[name].pid,)) for name in SERVICES}
        for usage in usages.values():
            usage.look()
        before = {name: usage.peak_bytes for name, usage in usages.items()}
        looking = asyncio.create_task(_memory(usages))
        watch, idle = _Watch(tell), await _idle_statements(where)
        started, sent = monotonic(), await where.statements()
        requests = [picture(f"number {number}") for number in range(tasks)]
        ticket = await upload(where.gateway, requests, max_concurrency=places)
        taken_in = monotonic() - started
        tell(f"{tasks:,} requests taken in within {taken_in:.1f} s")
        await watch.run(where, ticket.batch_id)
        seconds = monotonic() - started
        statements = await where.statements() - sent - idle * seconds
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        last, rows, ledger = watch.seen[-1], await _rows(where, ticket.batch_id), await where.ledger()
    title = f"A batch of {tasks:,} with {places} places"
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    counters = f"{last.completed_tasks} + {last.failed_tasks} + {last.cancelled_tasks}"
    truth = f"{rows['SUCCESS']} + {rows['FAILED']} + {rows['CANCELLED']}"
    table.add_row("taken in, all or none", f"{taken_in:.1f} s, {tasks / taken_in:,.0f} requests/s")
    table.add_row("all of it", f"{seconds:.0f} s, {tasks / seconds:.1f} generations/s")
    table.add_row("most at the providers at once, by their own count", str(ledger["peaks"]["all"]))
    table.add_row("bills", f"{len(ledger['bills']):,}")
    table.add_row("changes watched; none led back", f"{len(watch.seen):,}; {'yes' if watch.goes_forward else 'no'}")
    table.add_row("counters; rows", f"{counters}; {truth}")
    table.add_row("statements a generation", f"{statements / tasks:.2f}")
    for name, usage in usages.items():
        grown = (usage.peak_bytes - before[name]) / 2**20
        table.add_row(f"memory of the {name}", f"{usage.peak_bytes / 2**20:.0f} MiB, {grown:.0f} of it for this")
    return table


async def _idle_statements(where: Running) -> float:
    """What the services send in a second without work: loops look for it by the clock."""
    before = await where.statements()
    await asyncio.sleep(5)
    return (await where.statements() - before) / 5
