"""The bytes of an image, from wherever it is said to be."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Self

from libs.common.errors import ErrorCode, GenerationError
from libs.common.settings import Settings, listed
from libs.common.storage.download import Downloader


def refused(why: str, details: dict[str, object] | None = None) -> GenerationError:
    """It cannot be had, and a repeat does not help."""
    return GenerationError(ErrorCode.INVALID_REQUEST, why, details)


class Fetcher:
    """Fetches images.

    Args:
        downloader: fetches those that are http(s) URLs, within its limits.
        limit_bytes: the largest one that is taken.
        allowed_hosts: hosts that they may come from though their addresses are not public.
    """

    def __init__(self, downloader: Downloader, *, limit_bytes: int, allowed_hosts: Sequence[str]) -> None:
        self._downloader = downloader
        self._limit_bytes = limit_bytes
        self._allowed_hosts = allowed_hosts

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """With limits as the settings have them."""
        limit_bytes = settings.image_limit_bytes
        downloader = Downloader(limit_bytes=limit_bytes, timeout_seconds=settings.image_fetch_seconds, what="The image")
        return cls(downloader, limit_bytes=limit_bytes, allowed_hosts=listed(settings.image_allowed_hosts))

    async def fetch(self, url: str) -> bytes:
        """The image that an http(s) or data URL stands for.

        Raises GenerationError: INVALID_REQUEST where it cannot be had, and what `Downloader.read` raises that a repeat
        may help against.
        """
        if url.startswith("data:"):
            return await self._decoded(url)
        try:
            return await self._downloader.read(url, allowed_hosts=self._allowed_hosts)
        except GenerationError as error:
            if error.is_retryable:
                raise
            raise refused(error.message, error.details) from error

    async def _decoded(self, url: str) -> bytes:
        text = url.partition(";base64,")[2]
        if len(text) * 3 // 4 > self._limit_bytes + 2:
            raise refused(f"The image is larger than {self._limit_bytes} bytes.")
        try:
            return await asyncio.to_thread(b64decode, text, validate=True)
        except binascii.Error as error:
            raise refused("The image is not base64.") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._downloader.close()
