"""Clients of the cluster that send all the time, and tell what became of each request."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
from darkroom.gateway.v1 import gateway_pb2

from libs.client.client import Client
from libs.client.errors import DarkroomError
from tests.support.cluster.cluster import GATEWAY_GRPC, GATEWAY_HTTP, Cluster
from tests.support.simulator import simulated

_ENDED = {"SUCCESS", "FAILED", "CANCELLED"}


@dataclass
class Load:
    """So many clients of each kind, each with one request under way at a time.

    Args:
        cluster: what they ask.
        by_rpc: that use our client at the Service's address.
        by_name: that use it at the replicas' names, and go round them.
        by_rest: that send each request by HTTP once, over connections that they keep.
        task_seconds: how long a provider takes for each.
    """

    cluster: Cluster
    by_rpc: int = 4
    by_name: int = 4
    by_rest: int = 4
    task_seconds: float = 1.0
    prompts: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    _name: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        targets = [GATEWAY_GRPC] * self.by_rpc + ["dns:///gateway-replicas:50051"] * self.by_name
        self._tasks = [asyncio.create_task(self._by_rpc(target)) for target in targets]
        self._tasks += [asyncio.create_task(self._by_rest()) for _ in range(self.by_rest)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    def _prompt(self) -> str:
        number = next(self._numbers)
        return simulated(f"load {self._name} {number}", task_seconds=self.task_seconds)

    async def _by_rpc(self, target: str) -> None:
        async with Client(target, self.cluster.admin_key) as client:
            while not self._stopping.is_set():
                prompt = self._prompt()
                try:
                    generation_id = await client.submit("flux-pro", prompt)
                    self.prompts[generation_id] = prompt
                    generation = await client.wait(generation_id)
                    status = gateway_pb2.GenerationStatus.Name(generation.status)
                    self.ends[status.removeprefix("GENERATION_STATUS_")] += 1
                except (DarkroomError, grpc.aio.AioRpcError) as error:
                    self.failures.append(f"{target} at {datetime.now(UTC):%T.%f}: {error!r}")

    async def _by_rest(self) -> None:
        headers = {"x-api-key": self.cluster.admin_key}
        async with aiohttp.ClientSession(GATEWAY_HTTP, headers=headers) as session:
            while not self._stopping.is_set():
                prompt = self._prompt()
                body = {"modelIdentifier": "flux-pro", "prompt": prompt, "idempotencyKey": str(uuid.uuid4())}
                try:
                    made = await self._answered(session, "POST", "/api/external/generation", json=body)
                    self.prompts[made["id"]] = prompt
                    while made["status"] not in _ENDED:
                        await asyncio.sleep(0.25)
                        made = await self._answered(session, "GET", f"/api/external/generation/{made['id']}")
                    self.ends[made["status"]] += 1
                except (aiohttp.ClientError, TimeoutError, _Refused) as error:
                    self.failures.append(f"REST at {datetime.now(UTC):%T.%f}: {error!r}")

    @staticmethod
    async def _answered(session: aiohttp.ClientSession, method: str, path: str, **fields: Any) -> Any:
        async with session.request(method, path, timeout=aiohttp.ClientTimeout(total=30), **fields) as reply:
            if reply.status >= 300:
                raise _Refused(f"{reply.status} {await reply.text()}")
            return await reply.json()


class _Refused(Exception):
    pass
