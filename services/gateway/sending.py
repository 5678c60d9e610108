"""Files in answers: sent piece by piece, to whoever takes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from aiohttp import web

from libs.common.errors import GenerationError

log = structlog.get_logger()


async def send(
    request: web.Request, response: web.StreamResponse, chunks: AsyncGenerator[bytes], *, write_seconds: float
) -> web.StreamResponse:
    """Send a file. Whoever takes nothing of it for `write_seconds` is dropped.

    What fails on the way is cut off, never as if it had ended: half of a file is none.
    """
    await response.prepare(request)
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk:
                    async with asyncio.timeout(write_seconds):
                        await response.write(chunk)
        await response.write_eof()
    except (TimeoutError, GenerationError) as error:
        log.warning("file was not sent to its end", error=error)
        if request.transport is not None:
            request.transport.abort()
    return response
