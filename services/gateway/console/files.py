"""Results in pages, through here: files as they are, and small pictures of them. Pages load nothing from elsewhere."""

from __future__ import annotations

from contextlib import aclosing

from aiohttp import hdrs, web

from libs.common.database.records import Json
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.storage.media import INLINE_TYPES, OCTET_STREAM
from services.gateway.console.guard import FILE_POLICY, dress, headers_of
from services.gateway.console.visit import Visit
from services.gateway.sending import StoredFile

_THUMBNAIL = PreprocessConfig.model_validate(
    {
        "format": "webp",
        "resize": {"mode": "fit", "width": 320, "height": 320},
        "compression": {"quality": 75},
        "animated": "first_frame",
        "output": {"kind": "buffer"},
    }
)
_SOURCE_LIMIT_BYTES = 30_000_000
_KEPT = "private, max-age=86400, immutable"


async def output(visit: Visit) -> web.StreamResponse:
    """A file that a generation made, as it is; a part of it where a player asks for one."""
    file = StoredFile.of(await _output_of(visit))
    if file is None:
        raise NotFound("index", "This file is not in our storage.")
    content_type = file.content_type if file.content_type in INLINE_TYPES else OCTET_STREAM
    headers = {hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: _KEPT, **headers_of(FILE_POLICY)}
    return await visit.parts.downloads.stored(visit.request, file, headers)


async def thumbnail(visit: Visit) -> web.StreamResponse:
    """A small picture of an image that a generation made."""
    found = await _output_of(visit)
    if "object_key" not in found:
        raise NotFound("index", "This file is not in our storage.")
    if found.get("type") != "image" or found.get("size_bytes", 0) > _SOURCE_LIMIT_BYTES:
        raise NotFound("index", "There is no small picture of this.")
    content = bytearray()
    async with aclosing(visit.parts.objects.stream(found["object_key"])) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > _SOURCE_LIMIT_BYTES:
                raise NotFound("index", "There is no small picture of this.")
    try:
        image = await visit.parts.preparer.prepare(bytes(content), _THUMBNAIL, visit.caller.owner)
    except ImageFault as fault:
        raise GenerationError(ErrorCode.INVALID_REQUEST, f"The image cannot be shown: {fault}") from fault
    response = web.Response(
        body=image.prepared.content,
        content_type=image.prepared.content_type,
        headers={hdrs.CACHE_CONTROL: _KEPT},
    )
    dress(response, FILE_POLICY)
    return response


async def batch_results(visit: Visit) -> web.StreamResponse:
    """All results of a batch: lines of JSON, or a ZIP of the files."""
    batch_id = visit.named("batch_id")
    if await visit.parts.batches.get(batch_id, owner=None) is None:
        raise NotFound("batch_id", f"There is no batch {batch_id[:100]!r}.")
    wanted = "zip" if visit.asked("format") == "zip" else "jsonl"
    make, headers = visit.parts.export.file(batch_id, wanted)
    return await visit.parts.downloads.made(visit.request, make, {**headers, **headers_of(FILE_POLICY)})


async def _output_of(visit: Visit) -> Json:
    record = await visit.parts.generations.get(visit.named("id"))
    outputs = (record.outputs or []) if record is not None else []
    index = visit.request.match_info["index"]
    if not index.isascii() or not index.isdigit() or len(index) > 2 or int(index) >= len(outputs):
        raise NotFound("index", "There is no such file.")
    found: Json = outputs[int(index)]
    return found
