"""The monitor killed under load: whether a caller notices, and whether an error is lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from time import monotonic, perf_counter

import aiohttp
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub
from rich.table import Table

from bench.place import environment
from libs.client.channel import open_channel
from sandbox.figures import percentile
from sandbox.launcher import Stack
from sandbox.plan import SERVICES, Plan, Ports

_WITH, _WITHOUT = "with the monitor", "with the monitor killed"
_CLIENTS = 8
_FAULT = '[sim {"task_seconds": 0.1, "faults": [{"operation": "result", "kind": "failed"}]}]'
_SETTLE_SECONDS = 90.0


async def _load(stub: GenerationServiceStub, seconds: float, sent: list[str]) -> list[float]:
    """Send generations that all fail, each of which is an error to be reported; the seconds of each answer."""
    latencies: list[float] = []
    until = monotonic() + seconds

    async def client(number: int) -> None:
        while monotonic() < until:
            request = gateway_pb2.CreateGenerationRequest(
                model_identifier="flux-pro", prompt=f"client {number}, request {len(sent)} {_FAULT}"
            )
            began = perf_counter()
            sent.append((await stub.CreateGeneration(request, timeout=30)).id)
            latencies.append(perf_counter() - began)
            # As many as two cores carry to their end meanwhile.
            await asyncio.sleep(0.15)

    await asyncio.gather(*map(client, range(_CLIENTS)))
    return latencies


async def _json(stack: Stack, path: str) -> dict[str, object]:
    url = f"http://127.0.0.1:{stack.plan.ports.gateway_http}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, headers={"x-api-key": stack.admin_key}) as reply:
        found: dict[str, object] = await reply.json()
        return found


async def _kept(stack: Stack, wanted: int) -> int:
    """How many of those errors the log has in the end."""
    found, until = 0, monotonic() + _SETTLE_SECONDS
    while monotonic() < until:
        answer = await _json(stack, "/api/admin/monitoring/errors?text=%22task+ended%22&pageSize=1000")
        groups = answer["errors"]
        assert isinstance(groups, list)
        found = sum(group["count"] for group in groups)
        if found >= wanted:
            return found
        await asyncio.sleep(0.5)
    return found


async def _dropped(stack: Stack) -> float:
    total = 0.0
    for service in SERVICES:
        url = f"http://127.0.0.1:{stack.plan.ports.metrics[service]}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as reply:
            for line in (await reply.text()).splitlines():
                if line.startswith("darkroom_errors_dropped_total"):
                    total += float(line.rpartition(" ")[2])
    return total


async def outage(folder: Path, seconds: float, rounds: int, tell: Callable[[str], None]) -> Table:
    """Load with a monitor and without it, in turn, as often as is asked for."""
    # Errors of an earlier run would count with those of this one.
    shutil.rmtree(folder, ignore_errors=True)
    stack = Stack(Plan(folder, Ports.free(), environment=environment(), settings={"DARKROOM_LOG_LEVEL": "warn"}))
    await asyncio.to_thread(stack.start)
    channel = open_channel(f"127.0.0.1:{stack.plan.ports.grpc['gateway']}", stack.admin_key)
    stub, sent = GenerationServiceStub(channel), list[str]()
    found: dict[str, list[float]] = {_WITH: [], _WITHOUT: []}
    try:
        await _load(stub, 5, sent)
        for number in range(1, rounds + 1):
            found[_WITH] += await _load(stub, seconds, sent)
            await asyncio.to_thread(stack.kill, "monitor")
            found[_WITHOUT] += await _load(stub, seconds, sent)
            stack.start_service("monitor")
            await asyncio.to_thread(stack.wait_until_ready, "monitor")
            tell(f"round {number} of {rounds}: {seconds:g} s with the monitor, {seconds:g} s without")
        kept, dropped = await _kept(stack, len(sent)), await _dropped(stack)
    finally:
        await channel.close()
        await asyncio.to_thread(stack.stop)
    made = Table(
        title=f"{len(sent):,} generations that fail: {kept:,} errors in the log, {dropped:g} dropped",
        box=None, pad_edge=False, header_style="bold", title_justify="left",
    )  # fmt: skip
    for heading in ("CreateGeneration", "requests/s", "p50", "p99"):
        made.add_column(heading, justify="left" if heading == "CreateGeneration" else "right")
    base = percentile(found[_WITH], 0.99)
    for name, latencies in found.items():
        p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        rate = len(latencies) / seconds / rounds
        made.add_row(name, f"{rate:.0f}", f"{p50 * 1_000:.1f} ms", f"{p99 * 1_000:.1f} ms, {p99 / base:.2f}x")
    return made
