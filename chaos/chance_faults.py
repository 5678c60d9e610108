"""Random faults during a whole run: of the vendors, and of object storage through a proxy."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

LOOKUP_DELAY_SECONDS = 3.0
"""How long after a submit a vendor's lookup by our id does not find its task."""
_STORAGE_FAULTS = 0.03
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


def _fault(operation: str, kind: str, probability: float, **more: Any) -> dict[str, Any]:
    return {"operation": operation, "kind": kind, "probability": probability, **more}


def provider_behaviour(seed: int, refused: Mapping[str, int]) -> dict[str, Any]:
    """How the simulated vendors behave: quick, and with every fault that vendors have shown.

    `refused`: by vendor, the HTTP status with which it refuses all reads now.
    """
    return {
        "refused_reads": dict(refused),
        "lookup_delay_seconds": LOOKUP_DELAY_SECONDS,
        "seed": seed,
        "task_seconds": 1.0,
        "active_tasks_limit": 100_000,
        "result_wait_seconds": 0.05,
        "webhooks_lost": 0.25,
        "webhooks_doubled": 0.25,
        "faults": [
            _fault("submit", "429", 0.05, retry_after_seconds=1),
            _fault("submit", "500", 0.01),
            _fault("submit", "503", 0.01),
            _fault("submit", "timeout", 0.005),
            _fault("submit", "reset", 0.01),
            _fault("submit", "timeout", 0.005, after=True),
            _fault("submit", "reset", 0.01, after=True),
            _fault("submit", "truncated", 0.01, after=True),
            _fault("submit", "html", 0.005, after=True),
            _fault("check", "429", 0.03),
            _fault("check", "500", 0.03),
            _fault("check", "503", 0.02),
            _fault("check", "timeout", 0.005),
            _fault("check", "reset", 0.02),
            _fault("check", "truncated", 0.02),
            _fault("check", "unknown_state", 0.02),
            _fault("check", "401", 0.003),
            _fault("check", "403", 0.003),
            _fault("check", "404", 0.005),
            _fault("check", "html", 0.01),
            _fault("result", "500", 0.05),
            _fault("result", "reset", 0.03),
            _fault("result", "html", 0.02),
            _fault("result", "failed", 0.005),
            _fault("result", "moderated", 0.003),
            # Its URL has expired.
            _fault("result", "gone", 0.005),
        ],
    }


class StorageProxy:
    """Stands before object storage: passes requests on as they are, and now and then fails one.

    Args:
        port: where it listens on the loopback interface.
        upstream: the base URL of the store.
        seed: of its chance.
    """

    def __init__(self, port: int, upstream: str, *, seed: int) -> None:
        self._port = port
        self._upstream = upstream
        self._chance = random.Random(f"{seed}/storage")
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self.faults = 0

    @property
    def url(self) -> str:
        """What stands in the place of the store's URL."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen."""
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1024**3)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def close(self) -> None:
        """Stop."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        drawn = self._chance.random()
        if drawn < _STORAGE_FAULTS:
            self.faults += 1
            # Half of them after the object was stored: a repeat lands on the same key.
            if drawn < _STORAGE_FAULTS / 2:
                await self._forward(request)
            return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>", content_type="text/xml")
        return await self._forward(request)

    async def _forward(self, request: web.Request) -> web.Response:
        assert self._session is not None
        # The signature covers the host that the client named, so all headers go on as they are.
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        url = self._upstream + request.raw_path
        try:
            async with self._session.request(
                request.method, _raw(url), headers=headers, data=await request.read(), allow_redirects=False
            ) as reply:
                content = await reply.read()
                passed = {name: value for name, value in reply.headers.items() if name.lower() not in _HOP_BY_HOP}
                if request.method == "HEAD":
                    return web.Response(status=reply.status, headers=passed)
                passed.pop("Content-Length", None)
                return web.Response(status=reply.status, headers=passed, body=content)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return web.Response(status=502)


def _raw(url: str) -> URL:
    return URL(url, encoded=True)
