"""From a provider's output to what a generation's row keeps of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from libs.common import metrics
from libs.common.catalog import Provider
from libs.common.database.records import MediaType
from libs.common.encodings import content_of, is_data_url
from libs.common.errors import ErrorCode, GenerationError
from libs.common.storage.download import Downloader, HeadersFor, Media, from_bytes
from libs.common.storage.media import SNIFF_BYTES
from libs.common.storage.objects import ObjectStore, object_key

log = structlog.get_logger()
_OUTPUT_TYPES = frozenset({"image", "video"})


@dataclass(frozen=True, slots=True)
class Place:
    """Which output of which generation: all that its key follows from."""

    generation_id: str
    created_at: datetime
    index: int


class Results:
    """Stores outputs.

    Args:
        downloader: fetches those that are URLs.
        objects: keeps them.
        limit_bytes: the largest output taken.
    """

    def __init__(self, downloader: Downloader, objects: ObjectStore, *, limit_bytes: int) -> None:
        self._downloader = downloader
        self._objects = objects
        self._limit_bytes = limit_bytes

    async def store_url(
        self,
        url: str,
        media_type: MediaType,
        provider: Provider,
        place: Place,
        *,
        headers_for: HeadersFor,
        takes_any: bool,
        takes_cut_off: bool,
    ) -> dict[str, Any]:
        """Fetch an output and keep it; of a `data:` URL the file that it holds, whatever it is.

        Args:
            url: where the output is.
            media_type: `image` or `video`: what was asked for.
            provider: the account that made it.
            place: which output it is.
            headers_for: as for `Downloader.fetch`.
            takes_any: as for `Downloader.fetch`.
            takes_cut_off: as for `Downloader.fetch`.

        Raises as `Downloader.fetch` and `ObjectStore.put` do.
        """
        if is_data_url(url):
            content = await asyncio.to_thread(content_of, url)
            return await self.store_bytes(content or b"", media_type, provider, place)
        media = await self._downloader.fetch(
            url,
            media_type,
            allowed_hosts=provider.storage.result_hosts,
            headers_for=headers_for,
            takes_any=takes_any,
            takes_cut_off=takes_cut_off,
        )
        return await self._store(media, media_type, provider, place)

    async def store_bytes(
        self, content: bytes, media_type: MediaType, provider: Provider, place: Place
    ) -> dict[str, Any]:
        """Keep an output that came in a reply, of whatever kind but text: there is no second read of it.

        Raises as `from_bytes` and `ObjectStore.put` do.
        """
        media = from_bytes(content, media_type, limit_bytes=self._limit_bytes, takes_any=True)
        return await self._store(media, media_type, provider, place)

    def fault_of(self, content: bytes, media_type: MediaType) -> GenerationError | None:
        """Why an output that came in a reply cannot be kept: it is too large, empty or text. None: it can."""
        if len(content) > self._limit_bytes:
            return GenerationError(ErrorCode.PROVIDER_ERROR, f"An output is larger than {self._limit_bytes} bytes.")
        try:
            head = content[:SNIFF_BYTES]
            from_bytes(head, media_type, limit_bytes=self._limit_bytes, takes_any=True).file.close()
        except GenerationError as error:
            return error
        return None

    async def discard(self, outputs: Sequence[dict[str, Any]]) -> None:
        """Remove outputs that were kept for a generation that nobody will read. What cannot be removed is logged."""
        for key in (output["object_key"] for output in outputs if "object_key" in output):
            try:
                await self._objects.delete(key)
            except GenerationError as error:
                log.warning("object not removed", object_key=key, error=error)

    async def _store(self, media: Media, media_type: MediaType, provider: Provider, place: Place) -> dict[str, Any]:
        with media:
            key = object_key(
                provider.storage.s3_path_prefix, place.created_at, place.generation_id, place.index, media.extension
            )
            await self._objects.put(key, media)
        metrics.STORED_BYTES.labels(provider.id).inc(media.size_bytes)
        own_type = media.content_type.partition("/")[0]
        return {
            "type": own_type if own_type in _OUTPUT_TYPES else media_type,
            "object_key": key,
            "content_type": media.content_type,
            "size_bytes": media.size_bytes,
            "sha256": media.sha256,
        }
