"""Hostile images at a running gateway: what becomes of them, and what everybody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Self

import grpc
import psutil
from darkroom.gateway.v1 import gateway_pb2, images_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from rich.table import Table

from bench.batches.stack import running
from bench.imaging import hostile
from libs.client.images import preprocess_config

_AT_ONCE = 8
_BETWEEN_SECONDS = 0.01
_CONFIG = preprocess_config(
    format="jpeg", animated="first_frame", resize={"width": 256, "height": 256}, output={"kind": "buffer"}
)


def files(flips: int) -> dict[str, Sequence[bytes | str]]:
    """What is sent, by kind."""
    return {
        "bombs": [make() for make, _ in hostile.BOMBS.values()] * 4,
        "cut off at every kilobyte": [content for _, content in hostile.truncations()],
        f"{flips:,} with flipped bits": [content for _, content in hostile.flips(seed=11, number=flips)],
        "two things at once": list(hostile.polyglots().values()),
        "under a wrong name": hostile.misnamed(),
        "no images": list(hostile.not_images().values()),
    }


async def attack(folder: Path, flips: int, tell: Callable[[str], None]) -> list[Table]:
    """Two tables: what became of each kind of file, and how other calls and the gateway's memory did meanwhile."""
    outcomes: dict[str, Counter[str]] = {}
    async with running(folder, places=None) as stack:
        pid = stack.stack.children["gateway"].pid
        created = await stack.gateway.CreateGeneration(
            gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="an apple"), timeout=10
        )
        alone = await _latencies(stack.gateway, created.id, asyncio.create_task(asyncio.sleep(5)))
        before_bytes = psutil.Process(pid).memory_info().rss
        with _Memory(pid) as memory:
            sending = asyncio.create_task(_send_all(stack.gateway, files(flips), outcomes, tell))
            beside = await _latencies(stack.gateway, created.id, sending)
            await sending
        tell("done")
    return [_outcome_table(outcomes), _other_table(alone, beside, before_bytes, memory)]


async def _send_all(
    gateway: GenerationServiceStub,
    kinds: dict[str, Sequence[bytes | str]],
    outcomes: dict[str, Counter[str]],
    tell: Callable[[str], None],
) -> None:
    for kind, contents in kinds.items():
        tell(f"{len(contents):,} files: {kind}")
        waiting = iter(contents)
        found = outcomes[kind] = Counter()
        await asyncio.gather(*(_send(gateway, waiting, found) for _ in range(_AT_ONCE)))


async def _send(gateway: GenerationServiceStub, contents: Iterator[bytes | str], found: Counter[str]) -> None:
    for content in contents:
        request = images_pb2.PreprocessImageRequest(config=_CONFIG)
        if isinstance(content, bytes):
            request.content = content
        else:
            request.url = content
        try:
            await gateway.PreprocessImage(request, timeout=60)
            found["prepared"] += 1
        except grpc.aio.AioRpcError as error:
            found[error.code().name] += 1


async def _latencies(gateway: GenerationServiceStub, generation_id: str, until: asyncio.Task[None]) -> list[float]:
    """Seconds that a read takes, over and over until something has ended."""
    found = []
    for _ in cycle([None]):
        began = time.perf_counter()
        await gateway.GetGeneration(gateway_pb2.GetGenerationRequest(id=generation_id), timeout=30)
        found.append(time.perf_counter() - began)
        if until.done():
            return found
        await asyncio.sleep(_BETWEEN_SECONDS)
    return found


class _Memory:
    """Looks at a process and its workers until it is left."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.own_bytes = self.workers_bytes = 0
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.create_task(self._look())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()

    async def _look(self) -> None:
        while True:
            self.own_bytes = max(self.own_bytes, self._process.memory_info().rss)
            for worker in self._process.children():
                with contextlib.suppress(psutil.Error):
                    self.workers_bytes = max(self.workers_bytes, worker.memory_info().rss)
            await asyncio.sleep(_BETWEEN_SECONDS)


def _outcome_table(outcomes: dict[str, Counter[str]]) -> Table:
    shown = Table(title="What becomes of hostile images", title_justify="left")
    words = sorted({word for found in outcomes.values() for word in found})
    for heading in ("", "files", *words):
        shown.add_column(heading, justify="left" if heading == "" else "right")
    for kind, found in outcomes.items():
        shown.add_row(kind, f"{found.total():,}", *(f"{found[word]:,}" for word in words))
    return shown


def _other_table(alone: list[float], beside: list[float], before_bytes: int, memory: _Memory) -> Table:
    shown = Table(title="What others notice of them: GetGeneration", title_justify="left")
    for heading in ("", "calls", "p50 ms", "p99 ms", "slowest ms"):
        shown.add_column(heading, justify="left" if heading == "" else "right")
    for name, found in (("alone", alone), ("meanwhile", beside)):
        centiles = statistics.quantiles(found, n=100)
        figures = (centiles[49], centiles[98], max(found))
        shown.add_row(name, f"{len(found):,}", *(f"{seconds * 1_000:.1f}" for seconds in figures))
    mebibytes = [number / 2**20 for number in (before_bytes, memory.own_bytes, memory.workers_bytes)]
    shown.caption = (
        f"The gateway had {mebibytes[0]:.0f} MiB before and {mebibytes[1]:.0f} at the most, "
        f"a worker of its {mebibytes[2]:.0f} at the most."
    )
    return shown
