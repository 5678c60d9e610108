"""Input images as a vendor wants them: where it takes files, their bytes are fetched or decoded first."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import replace

from libs.common.adapters.base import Adapter, InputImage
from libs.common.errors import ErrorCode, GenerationError
from libs.common.storage.download import Downloader, Media, from_bytes

LIMIT_BYTES = 10_000_000


class InputImages:
    """Resolves them.

    Args:
        downloader: fetches those that are URLs; its limit should be `LIMIT_BYTES`.
    """

    def __init__(self, downloader: Downloader) -> None:
        self._downloader = downloader

    async def resolve(self, images: Sequence[InputImage], adapter: Adapter) -> tuple[InputImage, ...]:
        """The images, with their bytes if the adapter needs them.

        Raises GenerationError: INVALID_REQUEST for one that is no image, is too large or may not be fetched; what
        `Downloader.fetch` raises for a host that does not answer.
        """
        if not adapter.needs_image_bytes:
            return tuple(images)
        return tuple(await asyncio.gather(*(self._with_bytes(image) for image in images)))

    async def _with_bytes(self, image: InputImage) -> InputImage:
        try:
            media = await self._media(image)
        except GenerationError as error:
            if error.is_retryable:
                raise
            raise GenerationError(
                ErrorCode.INVALID_REQUEST, f"An input image: {error.message}", error.details
            ) from error
        with media:
            return replace(image, content=media.file.read(), content_type=media.content_type)

    async def _media(self, image: InputImage) -> Media:
        if not image.url.startswith("data:"):
            return await self._downloader.fetch(image.url, "image", allowed_hosts=())
        try:
            content = b64decode(image.bare_base64, validate=True)
        except binascii.Error as error:
            raise GenerationError(ErrorCode.INVALID_REQUEST, "it is not base64") from error
        return from_bytes(content, "image", limit_bytes=LIMIT_BYTES)
