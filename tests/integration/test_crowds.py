"""Crowds of one address and one key, held open: what they cost everybody else. Figures are printed (`-s`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import aiohttp
import grpc
import psutil
import pytest
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from sandbox.processes import free_port
from tests.conftest import StartStack
from tests.fuzz import frames
from tests.support.console import SESSION, visitor
from tests.support.crowds import (
    CHECK,
    CONNECTIONS,
    Active,
    HealthStub,
    Others,
    flood,
    idle_connections,
    in_own_process,
    no_messages,
    requests,
    streams,
    written,
)
from tests.support.ports import can_connect
from tests.support.relays import relay
from tests.support.running import Running
from tests.support.waiting import eventually

# More calls than a connection lasts for.
_RESET = 100_000
# An estimate of a thousand generations.
_THOUSAND = {
    "template": {"modelIdentifier": "flux-pro", "prompt": "a {a} {b} {c}"},
    "matrix": {name: [str(number) for number in range(10)] for name in "abc"},
}
# The same with as many placeholders as there may be.
_LONG = {
    "template": {"modelIdentifier": "flux-pro", "prompt": "{a}" * 100},
    "matrix": {"a": [str(number) for number in range(1_000)]},
}
_FRAMES_BYTES = 256 * 1024**2
Crowd = Callable[[], Any]
SERVICE = "/darkroom.gateway.v1.GenerationService"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass
class Held:
    """What a crowd asks for: a generation and a batch of its key, and pages of the console."""

    key: str
    generation_id: str
    batch_id: str
    session: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The key, as metadata."""
        return (("x-api-key", self.key),)


async def _held(running: Running, open_now: AsyncExitStack) -> Held:
    key = (await running.new_key("crowd")).key
    stub = GenerationServiceStub(running.channel_of(key))
    request = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt="x")
    generation_id = (await stub.CreateGeneration(request, timeout=10)).id
    batch = gateway_pb2.CreateBatchRequest(requests=[request] * 1_000)
    batch_id = (await stub.CreateBatch(batch, timeout=60)).batch_id
    ops = await open_now.enter_async_context(visitor(running.gateway_url()))
    await ops.sign_in((await running.new_key("ops", role=admin_pb2.API_KEY_ROLE_ADMIN)).key)
    return Held(key, generation_id, batch_id, ops.cookies[SESSION])


def _half_open(method: str, metadata: Any = ()) -> Callable[[grpc.aio.Channel], Any]:
    """Opens calls whose message does not come."""

    def open_one(channel: grpc.aio.Channel) -> Any:
        make: Any = channel.stream_stream(method)
        return make(no_messages(), metadata=metadata)

    return open_one


def _grpc_crowds(running: Running, health_port: int, held: Held, active: Active) -> dict[str, Crowd]:
    address = f"127.0.0.1:{running.gateway_port()}"
    to_watch = gateway_pb2.WatchGenerationRequest(id=held.generation_id)
    to_watch_batch = gateway_pb2.WatchBatchRequest(batch_id=held.batch_id)

    def of(open_one: Callable[[grpc.aio.Channel], Any]) -> Crowd:
        return lambda: streams(address, active, open_one)

    return {
        "health Watch": of(lambda channel: HealthStub(channel).Watch(CHECK)),
        "health Watch at the health port": lambda: streams(
            f"127.0.0.1:{health_port}", active, lambda channel: HealthStub(channel).Watch(CHECK), each=50
        ),
        "reflection": of(_half_open(REFLECTION)),
        "health Check without a message": of(_half_open("/grpc.health.v1.Health/Check")),
        "WatchGeneration": of(
            lambda channel: GenerationServiceStub(channel).WatchGeneration(to_watch, metadata=held.metadata)
        ),
        "WatchBatch": of(
            lambda channel: GenerationServiceStub(channel).WatchBatch(to_watch_batch, metadata=held.metadata)
        ),
        "UploadBatch without an end": of(_half_open(f"{SERVICE}/UploadBatch", held.metadata)),
        "CreateGeneration without a message": of(_half_open(f"{SERVICE}/CreateGeneration", held.metadata)),
    }


def _connection_crowds(running: Running, health_port: int, held: Held) -> dict[str, Crowd]:
    ports, begun, endless = running.stack.plan.ports, frames.unfinished(0), frames.unfinished(16 * 1024**2)
    check, create, key = b"/grpc.health.v1.Health/Check", f"{SERVICE}/CreateGeneration".encode(), held.key.encode()
    listing = f"{SERVICE}/ListModels".encode()
    grpc_port, metrics_port = running.gateway_port(), ports.metrics["gateway"]
    return {
        "idle gRPC connections": lambda: written(grpc_port, CONNECTIONS, begun),
        "idle connections to the health port": lambda: written(health_port, CONNECTIONS, begun),
        "idle connections to the metrics port": lambda: written(metrics_port, CONNECTIONS, b"GET /metrics HTTP/1.1"),
        "health checks whose answers nobody reads": lambda: written(grpc_port, 20, frames.unread(check, 900)),
        "lists whose answers nobody reads": lambda: written(
            grpc_port, 20, frames.unread(f"{SERVICE}/ListGenerations".encode(), 900, key=held.key.encode())
        ),
        "health checks that are reset at once": lambda: written(grpc_port, 20, frames.cancelled(check, 20_000)),
        "calls of nothing that are reset at once": lambda: written(grpc_port, 20, frames.cancelled(b"/a/b", 20_000)),
        "health checks that are reset at once, for ever": lambda: flood(grpc_port, frames.cancelled(check, _RESET)),
        "creates that are reset at once, for ever": lambda: flood(grpc_port, frames.cancelled(create, _RESET, key=key)),
        "creates that are reset before their message, for ever": lambda: flood(
            grpc_port, frames.cancelled(create, _RESET, key=key, message=None)
        ),
        "creates without a key that are reset, on new connections, for ever": lambda: flood(
            grpc_port, frames.cancelled(create, 4_000, message=None), closes=True
        ),
        "creates with a key that are reset, on new connections, for ever": lambda: flood(
            grpc_port, frames.cancelled(create, 4_000, key=key, message=None), closes=True
        ),
        "health checks whose answers nobody reads, for ever": lambda: flood(grpc_port, frames.unread(check, 900)),
        "SETTINGS after a call with a key, for ever": lambda: flood(
            grpc_port, frames.of_no_call(_FRAMES_BYTES), frames.one_call(listing, key)
        ),
        "undefined frames after a call with a key, for ever": lambda: flood(
            grpc_port, frames.of_no_call(_FRAMES_BYTES, 0x20, bytes(16_000)), frames.one_call(listing, key)
        ),
        "headers without an end, for ever": lambda: flood(grpc_port, endless),
        "headers without an end": lambda: written(grpc_port, 30, endless),
        "headers without an end at the health port": lambda: written(health_port, 30, endless),
    }


def _http_crowds(running: Running, held: Held, active: Active) -> dict[str, Crowd]:
    url, of_key = running.gateway_url(), dict(held.metadata)
    events = f"/api/external/generation/{held.generation_id}/events"
    page = {"cookie": f"{SESSION}={held.session}", "accept": "text/event-stream"}
    image = {"model": "flux-pro", "prompt": "x"}
    port = running.stack.plan.ports.gateway_http
    posted = b"POST /api/webhooks/replicate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    return {
        "chunks of one byte": lambda: written(port, 50, posted + b"1\r\n \r\n" * 700_000),
        "trailers without an end": lambda: written(port, 50, posted + b"0\r\n" + b"a: b\r\n" * 700_000),
        "lists of a thousand, 50 at once, for ever": lambda: in_own_process(
            "tests.fuzz.repeating", str(port), "/api/external/generation?pageSize=1000", held.key, "50"
        ),
        "lists of fifty, 50 at once, for ever": lambda: in_own_process(
            "tests.fuzz.repeating", str(port), "/api/external/generation", held.key, "50"
        ),
        "estimates of a thousand, 50 at once, for ever": lambda: in_own_process(
            "tests.fuzz.repeating",
            str(port),
            "/api/external/generation/estimate",
            held.key,
            "50",
            json.dumps(_THOUSAND),
        ),
        "estimates of long texts, 50 at once, for ever": lambda: in_own_process(
            "tests.fuzz.repeating",
            str(port),
            "/api/external/generation/estimate",
            held.key,
            "50",
            json.dumps(_LONG),
        ),
        "the OpenAPI document, 50 at once, for ever": lambda: in_own_process(
            "tests.fuzz.repeating", str(port), "/api/openapi.json", "", "50"
        ),
        "idle connections": lambda: idle_connections(running.stack.plan.ports.gateway_http),
        "events over HTTP": lambda: requests(url, active, CONNECTIONS, "GET", events, headers=of_key),
        "live pages": lambda: requests(url, active, 300, "GET", "/admin", headers=page),
        "waiting OpenAI calls": lambda: requests(
            url, active, 1_000, "POST", "/v1/images/generations", headers=of_key, json=image
        ),
    }


# Part of the names of crowds: the others are left out.
_ONLY = os.environ.get("DARKROOM_TEST_CROWDS", "")


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_a_crowd_of_one_address_and_key_locks_nobody_out(start_stack: StartStack) -> None:
    health_port = free_port()
    settings = {"DARKROOM_HEALTH_PORT": str(health_port), "DARKROOM_CONSOLE_LIVE_SECONDS": "30"}
    running = await start_stack(services=("gateway",), settings=settings)
    locked_out: dict[str, Any] = {}
    process = psutil.Process(running.stack.children["gateway"].pid)

    async def active() -> float:
        return await running.metric("gateway", "darkroom_rpc_active")

    async with (
        AsyncExitStack() as held,
        relay(running.gateway_port(), "127.0.0.2") as grpc_port,
        relay(health_port, "127.0.0.2") as probed,
    ):
        others = Others(
            (await running.new_key("others")).key,
            grpc_port,
            probed,
            running.gateway_url(),
            lambda: aiohttp.TCPConnector(local_addr=("127.0.0.2", 0)),
        )
        _show("nobody", 0, await others.figures())
        wanted = await _held(running, held)
        crowds = (
            _grpc_crowds(running, health_port, wanted, active)
            | _connection_crowds(running, health_port, wanted)
            | _http_crowds(running, wanted, active)
        )
        for name, crowd in crowds.items():
            if _ONLY not in name:
                continue
            for port in (running.gateway_port(), health_port):
                # The crowd before may have had its address blocked.
                await eventually(partial(can_connect, port), within=30, what="the address of the crowd is let in")
            async with crowd() as let_in:
                figures = await others.figures()
            _show(name, let_in, figures)
            print(f"  resident memory of the gateway: {process.memory_info().rss // 1024**2} MiB")
            if others.failures:
                print(f"  failed: { {kind: (len(texts), texts[0]) for kind, texts in others.failures.items()} }")
            if inf in figures.values():
                locked_out[name] = dict(others.failures)
    assert not locked_out, locked_out


def _show(name: str, let_in: int, figures: dict[str, float]) -> None:
    shown = ", ".join(f"{kind} {p99:.1f}" for kind, p99 in figures.items())
    print(f"{name}: {let_in} let in; p99 of others in ms: {shown}")
