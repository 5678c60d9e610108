"""Looks at ports of this machine."""

from __future__ import annotations

import asyncio


async def can_connect(port: int, *, within: float = 0.5) -> bool:
    """Whether a port takes a connection within so many seconds. A blocked address gets no answer at all."""
    try:
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except TimeoutError:
        return False
    writer.close()
    return True
