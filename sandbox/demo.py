"""`make demo`: the stack on free ports, one request through each adapter and more, watched to the end and looked at."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import aiohttp
import av
import grpc
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from PIL import Image
from rich.console import Console
from rich.live import Live
from rich.table import Table

from libs.client.channel import open_channel
from libs.client.client import ENDED
from libs.client.errors import DarkroomError
from libs.common.adapters.registry import adapters
from libs.common.catalog import Catalog, load
from sandbox.demo_batch import BatchFailed, DemoBatches
from sandbox.launcher import Stack, StackFailed
from sandbox.plan import FOLDER, Plan, Ports
from sandbox.simulators import CONTROL

_DEMO = FOLDER / "demo"
_MODELS_OF_A_PROVIDER = 2
_PROMPTS = (
    "a red apple on a wooden table",
    "a lighthouse in the fog at dawn",
    "a paper boat on a dark lake",
    "an old darkroom, prints drying on a line",
)
_END_SECONDS = 50.0
_LOOK_SECONDS = 0.25
_FAILURES = (
    StackFailed,
    BatchFailed,
    DarkroomError,
    TimeoutError,
    grpc.RpcError,
    aiohttp.ClientError,
    av.FFmpegError,
    OSError,
)


class Media(NamedTuple):
    """What a file turned out to be: `PNG` or `MP4`, and its size in words."""

    kind: str
    size: str


def looked_into(content: bytes, media_type: str) -> Media:
    """Open an image with Pillow, or demux and decode a video with FFmpeg's libraries. Raises what they raise."""
    if media_type == "video":
        with av.open(io.BytesIO(content), "r") as container:
            stream = container.streams.video[0]
            frames = len(list(container.decode(stream)))
            return Media("MP4", f"{stream.width}x{stream.height}, {frames} frames")
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return Media(image.format or "bin", f"{image.width}x{image.height}")


class DemoFailed(RuntimeError):
    """What was shown is not what was promised; the message says what."""


@dataclass(slots=True)
class Shown:
    """A request of the demo and how far it is. `name`: what its files are called; empty: as its model."""

    model: str
    adapter: str
    prompt: str
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    generation: gateway_pb2.Generation = field(default_factory=gateway_pb2.Generation)
    files: list[Path] = field(default_factory=list)
    name: str = ""

    @property
    def seconds(self) -> float:
        """From the request to its end, or to now."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def state(self) -> str:
        """The state that a client sees."""
        return gateway_pb2.GenerationStatus.Name(self.generation.status).removeprefix("GENERATION_STATUS_")


def chosen(catalog: Catalog) -> list[Shown]:
    """The requests: the first models of each provider. DemoFailed where that leaves out an adapter."""
    found: list[Shown] = []
    for provider in catalog.providers.values():
        models = [model for model in catalog.models.values() if model.provider == provider.id]
        for model in models[:_MODELS_OF_A_PROVIDER]:
            prompt = _PROMPTS[len(found) % len(_PROMPTS)]
            found.append(Shown(model.identifier, provider.adapter, prompt))
    left_out = set(adapters()) - {shown.adapter for shown in found}
    if left_out:
        raise DemoFailed(f"no model of the catalog uses the adapters {', '.join(sorted(left_out))}")
    return found


def _table(requests: list[Shown]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "adapter", "state", "progress", "seconds", "attempts", "polls"):
        justify: Literal["left", "right"] = "right" if heading in {"seconds", "attempts", "polls"} else "left"
        table.add_column(heading, justify=justify, no_wrap=True)
    colours = {"SUCCESS": "green", "FAILED": "red", "CANCELLED": "red", "PROCESSING": "yellow"}
    for shown in requests:
        generation = shown.generation
        filled = generation.progress // 20
        table.add_row(
            shown.model,
            shown.adapter,
            f"[{colours.get(shown.state, 'white')}]{shown.state}",
            f"{'━' * filled}[dim]{'━' * (5 - filled)}[/] {generation.progress:3d} %",
            f"{shown.seconds:.1f}",
            str(generation.attempts),
            str(generation.polls),
        )
    return table


async def _watch(gateway: GenerationServiceStub, requests: list[Shown], console: Console) -> None:
    deadline = time.monotonic() + _END_SECONDS
    with Live(_table(requests), console=console, refresh_per_second=8) as live:
        while any(shown.ended is None for shown in requests):
            for shown in requests:
                if shown.ended is None:
                    await _look(gateway, shown, console)
            live.update(_table(requests))
            if time.monotonic() > deadline:
                raise DemoFailed(f"not all requests ended within {_END_SECONDS:.0f} s")
            await asyncio.sleep(_LOOK_SECONDS)


async def _look(gateway: GenerationServiceStub, shown: Shown, console: Console) -> None:
    before = shown.state
    request = gateway_pb2.GetGenerationRequest(id=shown.generation.id)
    shown.generation = (await gateway.GetGeneration(request, timeout=5)).generation
    if shown.generation.status in ENDED:
        shown.ended = time.monotonic()
    if not console.is_terminal and shown.state != before:
        console.print(
            f"  {shown.model:<16} {shown.state:<11} {shown.seconds:5.1f} s   "
            f"attempts {shown.generation.attempts}   polls {shown.generation.polls}"
        )


async def _save(shown: Shown, folder: Path, session: aiohttp.ClientSession) -> None:
    generation = shown.generation
    if generation.status != gateway_pb2.GENERATION_STATUS_SUCCESS:
        raise DemoFailed(f"{shown.model} ended as {shown.state}: {generation.error.message or 'without a reason'}")
    for number, output in enumerate(generation.results):
        async with session.get(output.url, raise_for_status=True) as reply:
            content = await reply.read()
        if hashlib.sha256(content).hexdigest() != output.sha256:
            raise DemoFailed(f"{shown.model}: the stored file is not the one whose checksum was kept")
        path = folder / f"{shown.name or shown.model}-{number}.{looked_into(content, output.type).kind.lower()}"
        path.write_bytes(content)
        shown.files.append(path)


async def _bills(stack: Stack, session: aiohttp.ClientSession) -> int:
    url = f"http://127.0.0.1:{stack.plan.ports.simulators}{CONTROL}/ledger"
    async with session.get(url, raise_for_status=True) as reply:
        return len((await reply.json())["bills"])


def _show_files(requests: list[Shown], console: Console) -> None:
    console.print("\nOpened with Pillow and FFmpeg, and saved:")
    for shown in requests:
        for path in shown.files:
            media = looked_into(path.read_bytes(), "video" if path.suffix == ".mp4" else "image")
            console.print(
                f"  {os.path.relpath(path)}  {media.size} {media.kind}, {path.stat().st_size / 1_000:.0f} kB, "
                f"{shown.generation.cost_usd:.3f} US dollars by the catalog",
                highlight=False,
                soft_wrap=True,
            )


async def _batches(batches: DemoBatches) -> tuple[list[Shown], int]:
    """What the batches made, and how many of their requests failed at the provider."""
    tasks = await batches.chain()
    await batches.broken_chain()
    return [Shown(task.model_identifier, "", task.prompt, generation=task, name=task.ref) for task in tasks], 1


async def _run(stack: Stack, console: Console) -> None:
    catalog = load(Path(stack.environment["DARKROOM_CATALOG"]))
    requests = chosen(catalog)
    results = _DEMO / "results"
    results.mkdir(parents=True)
    async with open_channel(f"127.0.0.1:{stack.plan.ports.grpc['gateway']}", stack.admin_key) as channel:
        gateway = GenerationServiceStub(channel)
        console.print(f"\nSending {len(requests)} requests:")
        for shown in requests:
            request = gateway_pb2.CreateGenerationRequest(model_identifier=shown.model, prompt=shown.prompt)
            sent = time.monotonic()
            answer = await gateway.CreateGeneration(request, timeout=10)
            shown.generation = gateway_pb2.Generation(id=answer.id, status=answer.status)
            took_ms = (time.monotonic() - sent) * 1_000
            console.print(f"  {shown.model:<16} {answer.id} after {took_ms:.0f} ms", highlight=False)
        console.print()
        await _watch(gateway, requests, console)
        bills = len(requests)
        if stack.plan.catalog is None:
            found, failed = await _batches(DemoBatches(gateway, catalog, console))
            requests += found
            bills = len(requests) + failed
    async with aiohttp.ClientSession() as session:
        for shown in requests:
            await _save(shown, results, session)
        _show_files(requests, console)
        if stack.plan.catalog is None:
            billed = await _bills(stack, session)
            console.print(f"\nThe simulated providers have billed {billed} submits for {bills} that left.")
            if billed != bills:
                raise DemoFailed("something was billed twice, or not at all")


def demo() -> int:
    """Run it. Answers the exit code: 0, or 1 with the reason."""
    console = Console()
    started = time.monotonic()
    shutil.rmtree(_DEMO, ignore_errors=True)
    plan = Plan(folder=_DEMO, ports=Ports.free())
    console.print("Starting Darkroom:")
    try:
        with Stack(plan, tell=lambda step: console.print(f"  {step}", highlight=False)) as stack:
            asyncio.run(_run(stack, console))
            console.print("\nStopping.")
    except (DemoFailed, *_FAILURES) as error:
        console.print(f"\nThe demo failed: {error}", style="red", markup=False)
        console.print(f"Logs are in {_DEMO / 'logs'}.", highlight=False)
        return 1
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
    return 0
