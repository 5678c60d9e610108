"""Keeps prepared images in object storage for as long as somebody has been promised."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from libs.common.database.stores.prepared_images import NewPreparedImage, PreparedImageStore
from libs.common.errors import GenerationError
from libs.common.ids import new_id
from libs.common.preprocessing.preparing import KeyedImage
from libs.common.storage.objects import ObjectStore

log = structlog.get_logger()
_PREFIX = "prepared"
_AT_ONCE = 100


class KeptImage(NamedTuple):
    """Where a prepared image can be read, and until when."""

    url: str
    expires_at: datetime


class Keeper:
    """Uploads prepared images, and removes them when they have expired."""

    def __init__(self, store: PreparedImageStore, objects: ObjectStore) -> None:
        self._store = store
        self._objects = objects

    async def keep(self, image: KeyedImage, *, seconds: int, admit: Callable[[int], None] | None = None) -> KeptImage:
        """A URL for an image that works for `seconds`. One that is there already is not uploaded again.

        Args:
            image: what is kept.
            seconds: for how long at least.
            admit: is called with the bytes of an image that is about to be uploaded, and may raise.

        Raises GenerationError S3_UPLOAD_FAILED and SERVICE_UNAVAILABLE, both retryable, where that cannot be done.
        """
        key = await self._store.find(image.content_key, seconds=seconds)
        if key is None:
            if admit is not None:
                admit(len(image.prepared.content))
            key = await self._upload(image, seconds)
        return KeptImage(self._objects.url(key, seconds=seconds), datetime.now(UTC) + timedelta(seconds=seconds))

    async def _upload(self, image: KeyedImage, seconds: int) -> str:
        prepared = image.prepared
        key = f"{_PREFIX}/{datetime.now(UTC):%Y/%m/%d}/{new_id('img')}.{prepared.format.replace('jpeg', 'jpg')}"
        size_bytes = len(prepared.content)
        await self._store.begin(NewPreparedImage(key, image.content_key, prepared.content_type, size_bytes, seconds))
        await self._objects.put_file(key, io.BytesIO(prepared.content), prepared.content_type)
        await self._store.stored(key)
        return key

    async def remove_expired(self) -> bool:
        """Remove what has expired; whether there may be more. A turn of a loop: replicas may do it at once."""
        keys = await self._store.expired(_AT_ONCE)
        gone = [key for key in keys if await self._removed(key)]
        if gone:
            await self._store.removed(gone)
            log.info("expired images removed", images=len(gone))
        return len(gone) == _AT_ONCE

    async def _removed(self, key: str) -> bool:
        try:
            await self._objects.delete(key)
        except GenerationError as error:
            log.warning("object not removed", object_key=key, error=error)
            return False
        return True
