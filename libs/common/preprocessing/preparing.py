"""Prepares images in workers, the same one in the same way but once."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Self

from libs.common.imaging.capacity import fitting
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.picture import Prepared
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import Workers
from libs.common.preprocessing.shared import Shared
from libs.common.settings import Settings

_KEPT_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class KeyedImage:
    """A prepared image, and `content_key`: what all share of which the same was made."""

    prepared: Prepared
    content_key: str


class Preparer:
    """Prepares images.

    Args:
        workers: who does it.
        cache_bytes: how much of what was prepared is kept in memory.
    """

    def __init__(self, workers: Workers, *, cache_bytes: int) -> None:
        self._workers = workers
        self._shared: Shared[str, Prepared] = Shared(
            "prepared", limit_bytes=cache_bytes, size_of=lambda image: len(image.content), seconds=_KEPT_SECONDS
        )

    @classmethod
    def from_settings(cls, settings: Settings, *, waiting: int | None = None) -> Self:
        """With workers as the settings have them; `waiting` as for `Workers`."""
        source = SourceLimits(size_bytes=settings.image_limit_bytes, pixels=settings.image_limit_pixels)
        count, memory_bytes = fitting(settings.image_workers, settings.image_memory_bytes)
        limits = WorkerLimits(memory_bytes, settings.image_cpu_seconds, source, settings.image_isolation)
        workers = Workers(count=count, limits=limits, waiting=waiting)
        return cls(workers, cache_bytes=settings.image_cache_bytes)

    async def prepare(self, content: bytes, config: PreprocessConfig, owner: str) -> KeyedImage:
        """What becomes of an image file of an owner, who takes fair turns. Raises as `Workers.run` does."""
        key = await asyncio.to_thread(_key, content, config)
        return KeyedImage(await self._shared.get(key, lambda: self._workers.run(content, config, owner)), key)

    async def start(self) -> None:
        """See `Workers.look_at_kernel`."""
        await self._workers.look_at_kernel()

    async def close(self) -> None:
        """End the workers."""
        await self._shared.close()
        await self._workers.close()


def _key(content: bytes, config: PreprocessConfig) -> str:
    return hashlib.sha256(hashlib.sha256(content).digest() + config.pixels_key.encode()).hexdigest()
