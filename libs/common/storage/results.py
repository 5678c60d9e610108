"""From a provider's output to what a generation's row keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from libs.common import metrics
from libs.common.catalog import Provider
from libs.common.database.records import MediaType
from libs.common.errors import GenerationError
from libs.common.storage.download import Downloader, HeadersFor, Media, from_bytes
from libs.common.storage.objects import ObjectStore, object_key

log = structlog.get_logger()


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
        self, url: str, media_type: MediaType, provider: Provider, place: Place, *, headers_for: HeadersFor
    ) -> dict[str, Any]:
        """Fetch an output and keep it. Raises as `Downloader.fetch` and `ObjectStore.put` do."""
        media = await self._downloader.fetch(
            url, media_type, allowed_hosts=provider.storage.result_hosts, headers_for=headers_for
        )
        return await self._store(media, media_type, provider, place)

    async def store_bytes(
        self, content: bytes, media_type: MediaType, provider: Provider, place: Place
    ) -> dict[str, Any]:
        """Keep an output that came in a reply. Raises as `from_bytes` and `ObjectStore.put` do."""
        media = from_bytes(content, media_type, limit_bytes=self._limit_bytes)
        return await self._store(media, media_type, provider, place)

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
        return {
            "type": media_type,
            "object_key": key,
            "content_type": media.content_type,
            "size_bytes": media.size_bytes,
            "sha256": media.sha256,
        }
