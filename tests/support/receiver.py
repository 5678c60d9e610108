"""A receiver of callbacks: real HTTP, and answers as it is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

from sandbox.processes import free_port

Answer = Callable[[int], web.Response]


@dataclass
class Received:
    """A request that came."""

    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def verified(self, secret: str) -> Any:
        """The payload, believed by the public library of Standard Webhooks. Raises where it does not."""
        return Webhook(secret).verify(self.body.decode(), self.headers)


@dataclass
class Receiver:
    """What came, and how each is answered: by its number, counted from 0."""

    url: str
    answer: Answer = lambda _: web.Response(status=204)
    received: list[Received] = field(default_factory=list)

    def events(self) -> list[tuple[str, str]]:
        """The id and type of each that came."""
        return [(request.headers["webhook-id"], request.json["type"]) for request in self.received]

    async def take(self, request: web.Request) -> web.Response:
        """Keep it, and answer."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, await request.read()))
        return self.answer(len(self.received) - 1)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """One on the loopback interface."""
    port = free_port()
    found = Receiver(f"http://127.0.0.1:{port}/callbacks")
    app = web.Application()
    app.router.add_post("/callbacks", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield found
    finally:
        await runner.cleanup()
