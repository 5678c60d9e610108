"""Parts of pages that keep up by themselves: rendered again now and then, and sent where they have changed.

Source of the format: HTML Living Standard, server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp_sse import sse_response

from libs.common.errors import GenerationError
from libs.common.rpc.shares import Holder, Limits, Shares
from services.gateway.access import Caller
from services.gateway.console.rendering import live_parts
from services.gateway.console.visit import Page

# Then the browser asks again, and who is not signed in any more is shown nothing.
_STREAM_SECONDS = 300.0
_LIMITS = Limits(total=200, key=50, owner=100)


class Live:
    """Streams.

    Args:
        interval_seconds: between two looks.
        send_seconds: a browser that is slower is dropped.
        is_stopping: whether streams are to end, for browsers to go on at another gateway.
    """

    def __init__(self, *, interval_seconds: float, send_seconds: float, is_stopping: Callable[[], bool]) -> None:
        self._interval_seconds = interval_seconds
        self._send_seconds = send_seconds
        self._is_stopping = is_stopping
        self._shares = Shares("live_pages", "live pages", _LIMITS)

    async def stream(
        self, request: web.Request, caller: Caller, make: Callable[[], Awaitable[Page]]
    ) -> web.StreamResponse:
        """Send parts of a page as they change, for a while. RATE_LIMITED where too many look already."""
        with self._shares.held(Holder(key=caller.key_id, owner=caller.owner)):
            return await self._send(request, make)

    async def _send(self, request: web.Request, make: Callable[[], Awaitable[Page]]) -> web.StreamResponse:
        ends_at = time.monotonic() + _STREAM_SECONDS
        known: dict[str, str] = {}
        async with sse_response(request, send_timeout=self._send_seconds) as response:
            try:
                while time.monotonic() < ends_at and response.is_connected() and not self._is_stopping():
                    page = await self._made(make)
                    parts = live_parts(page.template, page.values) if page is not None else {}
                    for name, html in parts.items():
                        if known.get(name) != html:
                            await response.send(json.dumps({"name": name, "html": html}), event="part")
                    known |= parts
                    await asyncio.sleep(self._interval_seconds)
            except (ConnectionResetError, TimeoutError):
                # The browser has gone, or takes nothing; it asks again if it wants more.
                pass
        return response

    @staticmethod
    async def _made(make: Callable[[], Awaitable[Page]]) -> Page | None:
        try:
            return await make()
        except GenerationError:
            # What is away now may be back at the next look; the page shows what it last knew.
            return None
