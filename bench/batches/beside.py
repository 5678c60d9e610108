"""Single requests of one key while a large batch of another is under way at the same provider account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from rich.table import Table

from bench.batches.stack import picture, running, upload
from libs.client.client import ENDED
from sandbox.figures import percentile

_ACCOUNT_PLACES = 20
_BATCH_PLACES = 50
_BETWEEN_SECONDS = 0.25


async def _singles(gateway: GenerationServiceStub, count: int, what: str) -> list[float]:
    """Seconds from acceptance to the submit of single requests that come at a steady pace."""
    ids = []
    for number in range(count):
        request = picture(f"{what} {number}")
        ids.append((await gateway.CreateGeneration(request, timeout=30)).id)
        await asyncio.sleep(_BETWEEN_SECONDS)
    return [await _waited(gateway, generation_id) for generation_id in ids]


async def _waited(gateway: GenerationServiceStub, generation_id: str) -> float:
    request = gateway_pb2.GetGenerationRequest(id=generation_id)
    while True:
        found = (await gateway.GetGeneration(request, timeout=30)).generation
        if found.status in ENDED:
            return (found.submitted_at.ToNanoseconds() - found.created_at.ToNanoseconds()) / 1e9
        await asyncio.sleep(0.1)


async def beside(folder: Path, tasks: int, singles: int, tell: Callable[[str], None]) -> Table:
    """The waits of singles alone, and beside a batch of `tasks` that has every place of the account taken."""
    async with running(folder, places=_ACCOUNT_PLACES) as where, where.client("shop") as shop:
        alone = await _singles(shop, singles, "alone")
        tell(f"{singles} single requests alone")
        requests = [picture(f"of the batch {number}") for number in range(tasks)]
        ticket = await upload(where.gateway, requests, max_concurrency=_BATCH_PLACES)
        await asyncio.sleep(5)
        crowded = await _singles(shop, singles, "beside")
        asking = gateway_pb2.GetBatchRequest(batch_id=ticket.batch_id, page_size=0)
        batch = (await where.gateway.GetBatch(asking, timeout=30)).batch
        tell(f"{singles} single requests beside a batch that is {batch.progress} % done")
        await where.gateway.CancelBatch(gateway_pb2.CancelBatchRequest(batch_id=ticket.batch_id), timeout=30)
    title = f"From acceptance to the submit: an account with {_ACCOUNT_PLACES} places, a batch of {tasks:,}"
    title += f" with {_BATCH_PLACES}, generations of 1 s"
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("single requests of another key", "p50", "p99", "longest"):
        table.add_column(heading, justify="left" if heading.startswith("single") else "right")
    for name, waits in (("alone", alone), ("beside the batch", crowded)):
        figures = (percentile(waits, 0.5), percentile(waits, 0.99), max(waits))
        table.add_row(name, *(f"{seconds * 1_000:.0f} ms" for seconds in figures))
    added = [percentile(crowded, share) - percentile(alone, share) for share in (0.5, 0.99)]
    table.add_row("added", *(f"{seconds * 1_000:.0f} ms" for seconds in added), "")
    return table
