"""What a mixed batch was expected to cost and to take, beside what the providers billed and how long it took."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.struct_pb2 import Struct
from rich.table import Table

from bench.batches.stack import Running, running, upload

_WARM_UP, _PLACES = 60, 30
_FAILING_SHARE = 0.05
_FAILS = '[sim {"task_seconds": 1.0, "faults": [{"operation": "result", "kind": "failed"}]}]'
_FOLD_SECONDS = 15.0
# What is asked of each model, by its own words.
_CHOICES: dict[str, list[dict[str, Any]]] = {
    "flux-pro": [{"size_or_ratio": "256x256"}],
    "flux-schnell": [{}],
    "flux-dev-fal": [{}],
    "dall-e-3": [{}],
    "kling-v1-6": [{"duration": 5}, {"duration": 10}],
}


def _mixed(count: int, seed: int, *, failing: bool) -> list[gateway_pb2.CreateGenerationRequest]:
    chance, found = random.Random(seed), []
    for number in range(count):
        model = chance.choice(sorted(_CHOICES))
        parameters = Struct()
        parameters.update(chance.choice(_CHOICES[model]))
        fails = failing and model == "flux-pro" and chance.random() < _FAILING_SHARE * len(_CHOICES)
        prompt = f"mixed {seed}-{number} {_FAILS if fails else ''}"
        found.append(gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=prompt, parameters=parameters))
    return found


async def _run(where: Running, requests: list[gateway_pb2.CreateGenerationRequest]) -> gateway_pb2.Batch:
    ticket = await upload(where.gateway, requests, max_concurrency=_PLACES)
    batch = gateway_pb2.Batch()
    async for change in where.gateway.WatchBatch(gateway_pb2.WatchBatchRequest(batch_id=ticket.batch_id)):
        batch = change.batch
    return batch


async def estimate(folder: Path, tasks: int, tell: Callable[[str], None]) -> Table:
    """A batch of `tasks` mixed requests, some of which fail, after others from which durations are known."""
    async with running(folder, places=None) as where:
        first = await _run(where, _mixed(_WARM_UP, 1, failing=True))
        tell(f"{_WARM_UP} requests that nobody knew anything about: expected {first.estimate.expected_seconds:.0f} s, "
             f"took {first.seconds:.0f} s")  # fmt: skip
        await asyncio.sleep(_FOLD_SECONDS)
        before = len((await where.ledger())["bills"])
        batch = await _run(where, _mixed(tasks, 2, failing=True))
        bills = (await where.ledger())["bills"][before:]
    billed = sum(bill["price_usd"] for bill in bills)
    by_vendor: defaultdict[str, int] = defaultdict(int)
    for bill in bills:
        by_vendor[bill["vendor"]] += 1
    tell(f"{batch.completed_tasks} succeeded, {batch.failed_tasks} failed; {len(bills)} bills: {dict(by_vendor)}")
    title = f"{tasks:,} mixed requests of {len(_CHOICES)} models, {batch.failed_tasks} of which fail"
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("what", "low", "expected", "high", "actual", "error"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    guess = batch.estimate
    for name, actual in (("cost of what succeeded", batch.cost_usd), ("the providers' ledger, failures too", billed)):
        error = (guess.expected_usd - actual) / actual
        prices = (guess.low_usd, guess.expected_usd, guess.high_usd, actual)
        table.add_row(name, *(f"${price:.2f}" for price in prices), f"{error:+.1%}")
    error = (guess.expected_seconds - batch.seconds) / batch.seconds
    table.add_row("time", "", f"{guess.expected_seconds:.0f} s", "", f"{batch.seconds:.0f} s", f"{error:+.1%}")
    return table
