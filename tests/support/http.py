"""HTTP as clients of the gateway speak it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def call(
    url: str, path: str, *, method: str = "GET", key: str = "", json_body: Any = None, **options: Any
) -> Reply:
    """Send a request, with an API key where there is one."""
    headers = {**options.pop("headers", {}), **({"x-api-key": key} if key else {})}
    if json_body is not None:
        options["data"] = json.dumps(json_body)
        headers.setdefault("content-type", "application/json")
    if isinstance(options.get("data"), bytes):
        options["data"] = io.BytesIO(options["data"])
    async with (
        aiohttp.ClientSession(auto_decompress=options.pop("unpack", True)) as session,
        session.request(method, url + path, headers=headers, allow_redirects=False, **options) as reply,
    ):
        return Reply(reply.status, {name.lower(): value for name, value in reply.headers.items()}, await reply.read())


@asynccontextmanager
async def serving(routes: Iterable[web.RouteDef], *, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A server on this machine with these routes: its URL, without a slash at the end."""
    app = web.Application()
    app.add_routes(routes)
    async with TestServer(app, host=host) as server:
        yield str(server.make_url("")).rstrip("/")
