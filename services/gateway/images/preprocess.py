"""Preparing an image for whoever asks: fetched under the rules about addresses, prepared in a worker, handed over."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from darkroom.gateway.v1 import images_pb2

from libs.common.catalog import CatalogHolder
from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.picture import Prepared
from libs.common.imaging.presets import PRESETS, STANDARD
from libs.common.preprocessing.fetching import Fetcher
from libs.common.preprocessing.keeping import Keeper
from libs.common.preprocessing.plans import changed, wish_faults
from libs.common.preprocessing.preparing import KeyedImage, Preparer
from libs.common.validation.common import image_url_fault
from services.gateway.images.kept_bytes import KeptBytes
from services.gateway.images.wishes import wish_of

_BUSY_SECONDS = 1.0


class Images:
    """Prepares images.

    Args:
        catalog: has the presets.
        fetcher: fetches those that are URLs.
        preparer: prepares them.
        keeper: keeps those that are to have a URL.
        kept: bounds what is kept for an owner.
        at_once: how many one owner may have under way.
        answer_bytes: how large an image may be that goes in an answer.
    """

    def __init__(
        self,
        catalog: CatalogHolder,
        fetcher: Fetcher,
        preparer: Preparer,
        keeper: Keeper,
        kept: KeptBytes,
        *,
        at_once: int,
        answer_bytes: int,
    ) -> None:
        self._catalog = catalog
        self._fetcher = fetcher
        self._preparer = preparer
        self._keeper = keeper
        self._kept = kept
        self._at_once = at_once
        self._answer_bytes = answer_bytes
        self._under_way: Counter[str] = Counter()

    async def preprocess(
        self, request: images_pb2.PreprocessImageRequest, owner: str
    ) -> images_pb2.PreprocessImageResponse:
        """See the proto."""
        config = self._config(request)
        with self._turn_of(owner):
            image = await self._prepared(request, config, owner)
            answer = _answer(image.prepared)
            await self._hand_over(answer, image, config, owner)
            return answer

    def _config(self, request: images_pb2.PreprocessImageRequest) -> PreprocessConfig:
        presets, wish = self._catalog.current.presets, wish_of(request.config)
        faults = wish_faults(wish, PRESETS[STANDARD], presets, path="config")
        if request.WhichOneof("source") is None:
            faults.append(FieldViolation("content", "required", "must be set, or url"))
        elif request.HasField("url") and (fault := image_url_fault(request.url)):
            faults.append(FieldViolation("url", "url", fault))
        if faults:
            raise InvalidRequest(faults)
        return changed(PRESETS[STANDARD], wish, presets)

    @contextmanager
    def _turn_of(self, owner: str) -> Iterator[None]:
        """So that one owner's images do not take all places."""
        if self._under_way[owner] >= self._at_once:
            raise GenerationError(
                ErrorCode.RATE_LIMITED,
                f"At most {self._at_once} of an owner's images are prepared at once.",
                retry_after_seconds=_BUSY_SECONDS,
            )
        self._under_way[owner] += 1
        try:
            yield
        finally:
            self._under_way[owner] -= 1
            if not self._under_way[owner]:
                del self._under_way[owner]

    async def _prepared(
        self, request: images_pb2.PreprocessImageRequest, config: PreprocessConfig, owner: str
    ) -> KeyedImage:
        content = await self._fetcher.fetch(request.url) if request.HasField("url") else request.content
        try:
            return await self._preparer.prepare(content, config, owner)
        except ImageFault as fault:
            source = request.WhichOneof("source") or "content"
            field = "config.resize" if fault.rule == "output_size" else source
            raise InvalidRequest([FieldViolation(field, fault.rule, str(fault))]) from fault

    async def _hand_over(
        self, answer: images_pb2.PreprocessImageResponse, image: KeyedImage, config: PreprocessConfig, owner: str
    ) -> None:
        output = config.output
        size_bytes = len(image.prepared.content) * (4 / 3 if output.kind == "base64" else 1)
        if output.kind != "url" and size_bytes > self._answer_bytes:
            why = f"must be url: the image has {len(image.prepared.content):,} bytes, too many for an answer"
            raise InvalidRequest([FieldViolation("config.output.kind", "size", why)])
        if output.kind == "buffer":
            answer.content = image.prepared.content
        elif output.kind == "base64":
            answer.base64 = (await asyncio.to_thread(b64encode, image.prepared.content)).decode()
        if output.is_uploaded:
            admit = partial(self._kept.take, owner)
            kept = await self._keeper.keep(image, seconds=output.expires_in_seconds, admit=admit)
            answer.url = kept.url
            answer.url_expires_at.FromDatetime(kept.expires_at)


def _answer(prepared: Prepared) -> images_pb2.PreprocessImageResponse:
    return images_pb2.PreprocessImageResponse(
        format=prepared.format,
        content_type=prepared.content_type,
        width=prepared.size.width,
        height=prepared.size.height,
        size_bytes=len(prepared.content),
        source=images_pb2.SourceImage(
            format=prepared.source_format,
            width=prepared.source_size.width,
            height=prepared.source_size.height,
            size_bytes=prepared.source_bytes,
        ),
        steps=[
            images_pb2.PreprocessStep(step=report.step, seconds=report.seconds, changes=report.changes)
            for report in prepared.steps
        ],
        encodes=prepared.encodes,
        quality=prepared.quality,
    )
