"""Input images as a vendor wants them: where it takes files, their bytes are fetched or decoded first.

Those that others of the same batch have made lie in our own storage, which the vendor may not reach: it gets them in
the request, and a URL only where it takes nothing else or the file is too large for a request.
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import replace

from libs.common.adapters.base import Adapter, InputImage
from libs.common.database.records import Json
from libs.common.errors import ErrorCode, GenerationError
from libs.common.storage.download import Downloader, Media, from_bytes
from libs.common.storage.objects import ObjectStore

LIMIT_BYTES = 10_000_000


class InputImages:
    """Resolves them.

    Args:
        downloader: fetches those that are URLs; its limit should be `LIMIT_BYTES`.
        objects: where those lie that we have made.
    """

    def __init__(self, downloader: Downloader, objects: ObjectStore) -> None:
        self._downloader = downloader
        self._objects = objects

    async def resolve(
        self, images: Sequence[InputImage], made: Sequence[Json | None], adapter: Adapter
    ) -> tuple[InputImage, ...]:
        """The images, and after them those `made` for it, with their bytes if the adapter needs them.

        Raises GenerationError: INVALID_REQUEST for one that is no image, is too large, may not be fetched or is not
        there; S3_UPLOAD_FAILED where storage does not answer; what `Downloader.fetch` raises for a host that does not.
        """
        own = await asyncio.gather(*(self._made(output, adapter) for output in made))
        if not adapter.needs_image_bytes:
            return (*images, *own)
        return tuple(await asyncio.gather(*(self._with_bytes(image) for image in (*images, *own))))

    async def _made(self, output: Json | None, adapter: Adapter) -> InputImage:
        if output is None:
            raise GenerationError(
                ErrorCode.INVALID_REQUEST, "An input image: the request that it depends on has made fewer."
            )
        if "object_key" not in output:
            return InputImage(output["url"])
        is_large = output["size_bytes"] > LIMIT_BYTES
        if is_large and adapter.needs_image_bytes:
            raise GenerationError(ErrorCode.INVALID_REQUEST, f"An input image: it has more than {LIMIT_BYTES} bytes.")
        if is_large or not adapter.takes_data_urls:
            return InputImage(self._objects.url(output["object_key"]))
        content = b"".join([chunk async for chunk in self._objects.stream(output["object_key"])])
        return InputImage(f"data:{output['content_type']};base64,{b64encode(content).decode()}")

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
