"""Many WatchGeneration streams on one gateway: what they cost, and how late a change is told."""

from __future__ import annotations

import asyncio
import urllib.request
from time import perf_counter

import psutil
import sqlalchemy as sa
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from bench.gateway.contenders import gateway_stack
from bench.place import Place
from bench.usage import Usage
from libs.client.channel import open_channel
from sandbox.figures import percentile
from sandbox.launcher import Stack

_CHANNELS = 8
_QUIET_SECONDS = 10.0
_EVENTS = 100
_STATEMENTS = "darkroom_database_statements_total"
# As a poller's statement does, seen from here.
_CHANGE = sa.text("UPDATE generation_requests SET attempts = attempts + 1 WHERE id = :id")
_CHANGE_ALL = sa.text("UPDATE generation_requests SET attempts = attempts + 1")


def watching(place: Place, streams: int) -> dict[str, float]:
    """Open `streams` streams, leave them alone for a while, then change rows. Figures by name."""
    with gateway_stack(place, "watching", ("gateway",)) as stack:
        return asyncio.run(_measured(place, stack, streams))


async def _measured(place: Place, stack: Stack, count: int) -> dict[str, float]:
    address = f"127.0.0.1:{stack.plan.ports.grpc['gateway']}"
    channels = [open_channel(address, stack.admin_key) for _ in range(_CHANNELS)]
    stubs = [GenerationServiceStub(channel) for channel in channels]
    process = psutil.Process(stack.children["gateway"].pid)
    asked = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="watched")
    ids = [(await stubs[number % _CHANNELS].CreateGeneration(asked)).id for number in range(count)]
    before_bytes = process.memory_info().rss
    told: dict[str, tuple[int, float]] = {}

    async def watch(number: int) -> None:
        request = gateway_pb2.WatchGenerationRequest(id=ids[number])
        async for change in stubs[number % _CHANNELS].WatchGeneration(request):
            told[change.generation.id] = change.generation.attempts, perf_counter()

    tasks = [asyncio.create_task(watch(number)) for number in range(count)]
    while len(told) < count:
        await asyncio.sleep(0.1)
    place.tell(f"{count} streams are open")
    usage = Usage((process.pid,))
    usage.start()
    statements = _statements(stack)
    await asyncio.sleep(_QUIET_SECONDS)
    figures = {
        "statements a second": (_statements(stack) - statements) / _QUIET_SECONDS,
        "CPU of the gateway meanwhile, in percent of a core": usage.cpu_seconds / _QUIET_SECONDS * 100,
        "memory before, in MiB": before_bytes / 2**20,
        "memory with the streams, in MiB": process.memory_info().rss / 2**20,
        **await _latencies(place, ids, told),
    }
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for channel in channels:
        await channel.close()
    return figures


async def _latencies(place: Place, ids: list[str], told: dict[str, tuple[int, float]]) -> dict[str, float]:
    engine = sa.create_engine(place.postgres.url_of("bench_watching"))

    def change(statement: sa.TextClause, **parameters: str) -> float:
        with engine.begin() as connection:
            connection.execute(statement, parameters)
        return perf_counter()

    async def seen(generation_id: str, attempts: int) -> float:
        while told[generation_id][0] < attempts:
            await asyncio.sleep(0.001)
        return told[generation_id][1]

    single = []
    for generation_id in ids[:_EVENTS]:
        changed = await asyncio.to_thread(change, _CHANGE, id=generation_id)
        single.append(await seen(generation_id, 1) - changed)
    targets = {generation_id: told[generation_id][0] + 1 for generation_id in ids}
    changed = await asyncio.to_thread(change, _CHANGE_ALL)
    every = [await seen(generation_id, attempts) - changed for generation_id, attempts in targets.items()]
    engine.dispose()
    return {
        "one changes: told after p50, in ms": percentile(single, 0.5) * 1_000,
        "one changes: told after p99, in ms": percentile(single, 0.99) * 1_000,
        "all change at once: told after p50, in ms": percentile(every, 0.5) * 1_000,
        "all change at once: the last told after, in ms": max(every) * 1_000,
    }


def _statements(stack: Stack) -> float:
    url = f"http://127.0.0.1:{stack.plan.ports.metrics['gateway']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{_STATEMENTS} ")).split()[1])
