"""Sending JSON over HTTP, as most channels do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aiohttp

from services.monitor.channels.base import TIMEOUT_SECONDS, ChannelFailed

_READ_BYTES = 64 * 1024
_HOPELESS = {400, 401, 403, 404, 410}


class Poster:
    """A session for one channel."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, names_itself: str = "receiver"
    ) -> tuple[int, bytes]:
        """The status and the beginning of the answer's body. ChannelFailed for anything but 2xx."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), cookie_jar=aiohttp.DummyCookieJar()
            )
        sent = {"content-type": "application/json; charset=utf-8", **headers}
        async with self._session.post(url, data=body, headers=sent, allow_redirects=False) as response:
            content = await response.content.read(_READ_BYTES)
            if not 200 <= response.status < 300:
                raise ChannelFailed(
                    f"The {names_itself} answered {response.status}.", is_hopeless=response.status in _HOPELESS
                )
            return response.status, content

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those that are None or empty."""
    return {key: value for key, value in values.items() if value not in (None, "", [], {})}
