"""Input images as a vendor wants them: prepared as it needs them, and handed over as it takes them.

Those that others of the same batch have made lie in our own storage, which the vendor may not reach: where they are
not prepared, it gets them in the request, and a URL only where it takes nothing else or the file is too large for that.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence

from libs.common.adapters.base import Adapter, InputImage
from libs.common.database.records import Json, MadeImage
from libs.common.database.records_dispatch import ClaimedGeneration
from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.places import FairPlaces
from libs.common.preprocessing.fetching import Fetcher, refused
from libs.common.preprocessing.keeping import Keeper
from libs.common.preprocessing.plans import ImagePlan
from libs.common.preprocessing.preparing import Preparer
from libs.common.preprocessing.shared import Shared
from libs.common.settings import Settings
from libs.common.storage.download import from_bytes
from libs.common.storage.media import INLINE_TYPES
from libs.common.storage.objects import ObjectStore
from services.dispatcher.outcomes import Job

IN_REQUEST_BYTES = 10_000_000
"""The largest image that goes in a request as it came."""
_AT_ONCE = 32
_KEPT_SECONDS = 600.0
Source = str | MadeImage
"""A URL; or an image that another generation of the batch was to make."""


class InputImages:
    """Resolves them.

    Args:
        fetcher, preparer, keeper: fetch them, prepare them, and give those a URL that are to have one.
        objects: where those lie that we have made.
        settings: how large they may be, and how much of them is kept.
    """

    def __init__(
        self, fetcher: Fetcher, preparer: Preparer, keeper: Keeper, objects: ObjectStore, settings: Settings
    ) -> None:
        self._fetcher = fetcher
        self._preparer = preparer
        self._keeper = keeper
        self._objects = objects
        self._limit_bytes = settings.image_limit_bytes
        # What is in memory at once is bounded: thousands may be about to be submitted. Images of one owner, or a host
        # that answers them slowly, leave places for those of others.
        self._places = FairPlaces(_AT_ONCE, share=_AT_ONCE // 2)
        self._of_batches: Shared[tuple[str, str], bytes] = Shared(
            "fetched", limit_bytes=settings.image_cache_bytes, size_of=len, seconds=_KEPT_SECONDS
        )

    async def resolve(self, images: Sequence[InputImage], job: Job) -> tuple[InputImage, ...]:
        """Return the images, and after them those made by others of the batch, as the job's provider takes them.

        All that the request declares are returned, but for those of `images_from` that it runs without.

        Raises GenerationError: INVALID_REQUEST with the index of each that is no image, is too large, may not be
        fetched, is not there or cannot be made what the provider needs; S3_UPLOAD_FAILED and SERVICE_UNAVAILABLE
        where storage or workers are away; INTERNAL_ERROR where the claim has fewer than were declared; what
        `Downloader.read` raises for a host that does not answer.
        """
        _check_made(job.claimed)
        sources: list[Source] = [image.url for image in images]
        sources += [image for image in job.claimed.made_images if not image.is_left_out]
        found = await asyncio.gather(*(self._resolved(source, job) for source in sources), return_exceptions=True)
        return all_of(found)

    async def _resolved(self, source: Source, job: Job) -> InputImage:
        if isinstance(source, MadeImage):
            if source.source is None:
                raise refused(source.fault or f"The request {source.batch_ref!r} has not made it.")
            if not source.source.get("content_type", "image/").startswith("image/"):
                raise refused(f"What the request {source.batch_ref!r} has made is no image.")
            output: str | Json = source.source
        else:
            output = source
        async with self._places.place(job.claimed.owner):
            if job.images is not None:
                return await self._prepared(output, job, job.images)
            return await self._as_it_comes(output, job.adapter)

    async def _prepared(self, source: str | Json, job: Job, plan: ImagePlan) -> InputImage:
        content = await self._content(source, job.claimed.batch_id)
        image = await self._preparer.prepare(content, plan.config, job.claimed.owner)
        prepared, output = image.prepared, plan.config.output
        plan.needs.check(prepared.size)
        if output.is_uploaded:
            return InputImage((await self._keeper.keep(image, seconds=output.expires_in_seconds)).url)
        if output.kind == "buffer":
            return InputImage("", prepared.content, prepared.content_type)
        return InputImage(await _data_url(prepared.content, prepared.content_type))

    async def _content(self, source: str | Json, batch_id: str | None) -> bytes:
        if not isinstance(source, str):
            return await self._made(source)
        if batch_id is None or source.startswith("data:"):
            return await self._fetcher.fetch(source)
        # One that all of a batch start from is fetched for the first of them.
        return await self._of_batches.get((batch_id, source), lambda: self._fetcher.fetch(source))

    async def _made(self, output: Json) -> bytes:
        if "object_key" not in output:
            return await self._fetcher.fetch(output["url"])
        if output["size_bytes"] > self._limit_bytes:
            raise refused(f"The image is larger than {self._limit_bytes} bytes.")
        return b"".join([chunk async for chunk in self._objects.stream(output["object_key"])])

    async def _as_it_comes(self, source: str | Json, adapter: Adapter) -> InputImage:
        if adapter.needs_image_bytes:
            content = await self._content(source, None)
            with from_bytes(content, "image", limit_bytes=self._limit_bytes) as media:
                if media.content_type not in INLINE_TYPES:
                    raise refused(f"The image is {media.content_type}, which providers do not take.")
                return InputImage("", content, media.content_type)
        if isinstance(source, str):
            return InputImage(source)
        if "object_key" not in source:
            return InputImage(source["url"])
        if source["size_bytes"] > IN_REQUEST_BYTES or not adapter.takes_data_urls:
            return InputImage(self._objects.url(source["object_key"]))
        return InputImage(await _data_url(await self._made(source), source["content_type"]))


def _check_made(claimed: ClaimedGeneration) -> None:
    """Refuse to submit with fewer images than were declared: the provider would make, and bill, something else."""
    declared, found = len(claimed.images_from), len(claimed.made_images)
    if found != declared:
        raise GenerationError(
            ErrorCode.INTERNAL_ERROR,
            f"The request declares {declared} input images of other requests of its batch, and {found} were looked up. "
            "Nothing was sent. Resume the batch; if that fails again, report it with the request id.",
            {"declared": declared, "found": found},
        )


async def _data_url(content: bytes, content_type: str) -> str:
    encoded = await asyncio.to_thread(b64encode, content)
    return f"data:{content_type};base64,{encoded.decode()}"


def all_of(found: Sequence[InputImage | BaseException]) -> tuple[InputImage, ...]:
    """All images, or why they cannot be had: what no image is to blame for comes first, and hides the rest."""
    faults = [outcome for outcome in found if isinstance(outcome, BaseException)]
    for fault in faults:
        if not _is_the_images(fault):
            raise fault
    if faults:
        raise InvalidRequest([_violation(index, outcome) for index, outcome in enumerate(found) if outcome in faults])
    return tuple(outcome for outcome in found if isinstance(outcome, InputImage))


def _is_the_images(fault: BaseException) -> bool:
    """Whether an image is to blame, and will be the next time, too."""
    if isinstance(fault, GenerationError):
        return not fault.is_retryable and fault.code is not ErrorCode.INTERNAL_ERROR
    return isinstance(fault, ImageFault)


def _violation(index: int, fault: InputImage | BaseException) -> FieldViolation:
    field = f"input_images[{index}]"
    if isinstance(fault, ImageFault):
        return FieldViolation(field, fault.rule, str(fault))
    return FieldViolation(field, "available", fault.message if isinstance(fault, GenerationError) else str(fault))
