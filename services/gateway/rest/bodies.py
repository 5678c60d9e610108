"""Bodies of requests: bounded in size and time, packed or not."""

from __future__ import annotations

import asyncio

from aiohttp import web

from services.gateway.failures import check_ratio
from services.gateway.holding import hold_bytes

_JSON_TYPES = ("application/json", "application/x-www-form-urlencoded", "application/octet-stream", "text/plain")


class Bodies:
    """Reads them.

    Args:
        limit_bytes: the most, unpacked.
        timeout_seconds: what a client gets to send one.
    """

    def __init__(self, *, limit_bytes: int, timeout_seconds: float) -> None:
        self.limit_bytes = limit_bytes
        self.timeout_seconds = timeout_seconds

    async def read(self, request: web.Request) -> bytes:
        """All of it. Raises aiohttp's 408, 413 and 400, and as `hold_bytes` and `check_ratio`."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                async for chunk in request.content.iter_any():
                    hold_bytes(request, len(chunk))
                    body += chunk
                    check_ratio(request, len(body))
                    if len(body) > self.limit_bytes:
                        raise web.HTTPRequestEntityTooLarge(max_size=self.limit_bytes, actual_size=len(body))
        except TimeoutError as error:
            raise web.HTTPRequestTimeout(text=f"The body did not come within {self.timeout_seconds:g} s.") from error
        return bytes(body)

    async def read_json(self, request: web.Request) -> bytes:
        """The same, for JSON: also as curl sends it by default, which calls everything a form. 415 for other types."""
        given = request.content_type
        if request.can_read_body and not given.startswith(_JSON_TYPES) and not given.endswith("+json"):
            raise web.HTTPUnsupportedMediaType(text=f"The body must be application/json, not {given[:100]}.")
        return await self.read(request)
