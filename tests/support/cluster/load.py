"""Clients of the cluster that send all the time, each with one request under way."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp

from libs.client.client import Client
from tests.support.cluster.cluster import GATEWAY_GRPC, GATEWAY_HTTP, Cluster
from tests.support.promises import Accounts, Promises

_CLIENTS = 4
_NAMES = "dns:///gateway-replicas:50051"
_TASK_SECONDS = 1.0
_ENDED = {"SUCCESS", "FAILED", "CANCELLED"}


@dataclass
class Load:
    """So many of each kind: with our client at the Service's address, with it at the replicas' names, and by HTTP.

    Those by HTTP send each request once, over connections that they keep.
    """

    cluster: Cluster
    promises: Promises = field(default_factory=Promises)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        for _ in range(_CLIENTS):
            for work in (self._by_rpc(GATEWAY_GRPC), self._by_rpc(_NAMES), self._by_rest()):
                self._tasks.append(asyncio.create_task(work))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def accounts(self) -> Accounts:
        """What became of all of it."""
        return await self.promises.accounts(self.cluster.database_url, self.cluster.shared.simulators_url)

    async def _by_rpc(self, target: str) -> None:
        async with Client(target, self.cluster.admin_key) as client:
            while not self._stopping.is_set():
                await self.promises.followed(client, self.promises.prompt(task_seconds=_TASK_SECONDS), where=target)

    async def _by_rest(self) -> None:
        headers = {"x-api-key": self.cluster.admin_key}
        async with aiohttp.ClientSession(GATEWAY_HTTP, headers=headers) as session:
            while not self._stopping.is_set():
                try:
                    await self._sent(session, self.promises.prompt(task_seconds=_TASK_SECONDS))
                except (aiohttp.ClientError, TimeoutError, _Refused) as error:
                    self.promises.failures.append(f"{GATEWAY_HTTP}: {error!r}")

    async def _sent(self, session: aiohttp.ClientSession, prompt: str) -> None:
        body = {"modelIdentifier": "flux-pro", "prompt": prompt, "idempotencyKey": str(uuid.uuid4())}
        made = await self._answered(session, "POST", "/api/external/generation", json=body)
        self.promises.prompts[made["id"]] = prompt
        while made["status"] not in _ENDED:
            await asyncio.sleep(0.25)
            made = await self._answered(session, "GET", f"/api/external/generation/{made['id']}")
        self.promises.ends[made["status"]] += 1

    @staticmethod
    async def _answered(session: aiohttp.ClientSession, method: str, path: str, **fields: Any) -> Any:
        async with session.request(method, path, timeout=aiohttp.ClientTimeout(total=30), **fields) as reply:
            if reply.status >= 300:
                raise _Refused(f"{reply.status} {await reply.text()}")
            return await reply.json()


class _Refused(Exception):
    pass
