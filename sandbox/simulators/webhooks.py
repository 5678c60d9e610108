"""Delivers webhooks as vendors do: a few tries, then never again."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import aiohttp

_TRIES = 3
_TIMEOUT = aiohttp.ClientTimeout(total=10)


class Webhook(NamedTuple):
    """What is sent: headers beside the content type, and the body."""

    headers: dict[str, str]
    body: bytes


async def deliver(url: str, webhook: Webhook) -> bool:
    """POST it until it is taken, or refused for good. Whether it was taken."""
    headers = {"content-type": "application/json", **webhook.headers}
    for number in range(_TRIES):
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.post(url, data=webhook.body, headers=headers) as reply,
            ):
                if reply.status < 500:
                    return reply.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        await asyncio.sleep(2.0**number / 2)
    return False
