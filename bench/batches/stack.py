"""A stack for batches: accounts with as many places as a part wants, and providers that work for a moment."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.gateway.v1.admin_pb2_grpc import AdminServiceStub
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from bench.place import environment
from libs.client.channel import open_channel
from sandbox.launcher import Stack
from sandbox.plan import Plan, Ports
from sandbox.simulators import CONTROL

_MANY = 1_000


@dataclass(slots=True)
class Running:
    """A stack that runs, and how it is asked."""

    stack: Stack
    gateway: GenerationServiceStub

    async def behave(self, **behaviour: Any) -> None:
        """Let the simulated providers behave so."""
        await self._simulators("PUT", "behaviour", behaviour)

    async def ledger(self) -> dict[str, Any]:
        """Their bills, and how many tasks have run at once at the most."""
        found: dict[str, Any] = await self._simulators("GET", "ledger")
        return found

    async def statements(self) -> float:
        """SQL statements that the services have sent so far."""
        total = 0.0
        for service in ("gateway", "dispatcher", "poller"):
            url = f"http://127.0.0.1:{self.stack.plan.ports.metrics[service]}/metrics"
            async with aiohttp.ClientSession() as session, session.get(url) as reply:
                for line in (await reply.text()).splitlines():
                    if line.startswith("darkroom_database_statements_total"):
                        total += float(line.rpartition(" ")[2])
        return total

    @asynccontextmanager
    async def client(self, owner: str) -> AsyncIterator[GenerationServiceStub]:
        """The gateway's RPCs with a key of their own."""
        address = f"127.0.0.1:{self.stack.plan.ports.grpc['gateway']}"
        async with open_channel(address, self.stack.admin_key) as channel:
            made = await AdminServiceStub(channel).CreateApiKey(admin_pb2.CreateApiKeyRequest(owner=owner), timeout=10)
        async with open_channel(address, made.key) as channel:
            yield GenerationServiceStub(channel)

    async def _simulators(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        url = f"http://127.0.0.1:{self.stack.plan.ports.simulators}{CONTROL}/{path}"
        async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as reply:
            reply.raise_for_status()
            return await reply.json()


@asynccontextmanager
async def running(folder: Path, *, places: int | None, webhooks: bool = True) -> AsyncIterator[Running]:
    """The stack on a fresh folder, each provider account with so many tasks at once; None: no bound.

    Without `webhooks` providers are polled alone.
    """

    def adjust(catalog: dict[str, Any]) -> None:
        for provider in catalog["providers"].values():
            limits = provider.setdefault("limits", {})
            for name in ("concurrent_tasks", "requests_per_minute", "requests_per_second"):
                limits.pop(name, None)
            if not webhooks:
                provider.pop("webhooks", None)
            if places is not None:
                limits["concurrent_tasks"] = places
        for model in catalog["models"].values():
            model["polling"] = {"strategy": "fixed", "interval_seconds": 0.5}

    shutil.rmtree(folder, ignore_errors=True)
    settings = {"DARKROOM_LOG_LEVEL": "warn"}
    stack = Stack(Plan(folder, Ports.free(), environment=environment(), settings=settings, adjust=adjust))
    await asyncio.to_thread(stack.start)
    channel = open_channel(f"127.0.0.1:{stack.plan.ports.grpc['gateway']}", stack.admin_key)
    try:
        found = Running(stack, GenerationServiceStub(channel))
        await found.behave(task_seconds=1.0, active_tasks_limit=_MANY)
        yield found
    finally:
        await channel.close()
        await asyncio.to_thread(stack.stop)


def picture(prompt: str, model: str = "flux-pro", **fields: Any) -> gateway_pb2.CreateGenerationRequest:
    """A small picture, so that drawing it is not what is measured."""
    request = gateway_pb2.CreateGenerationRequest(model_identifier=model, prompt=prompt, **fields)
    if model == "flux-pro":
        request.parameters.update({"size_or_ratio": "256x256"})
    return request


async def upload(
    gateway: GenerationServiceStub, requests: list[gateway_pb2.CreateGenerationRequest], **options: Any
) -> gateway_pb2.UploadBatchResponse:
    """Hand in a batch of any size."""

    async def messages() -> AsyncIterator[gateway_pb2.UploadBatchRequest]:
        yield gateway_pb2.UploadBatchRequest(options=gateway_pb2.BatchOptions(**options))
        for start in range(0, len(requests), 500):
            yield gateway_pb2.UploadBatchRequest(requests=requests[start : start + 500])

    return await gateway.UploadBatch(messages(), timeout=600)
