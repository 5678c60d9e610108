"""Results in pages, through here: files as they are, and small pictures of them. Pages load nothing from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import hdrs, web

from libs.common.database.records import Json
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.storage.download import MEDIA_TYPES
from services.gateway.batches.export import FORMATS
from services.gateway.console.guard import FILE_POLICY, dress
from services.gateway.console.visit import Visit
from services.gateway.sending import send

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
_KEPT_SECONDS = 86_400
_WRITE_SECONDS = 30.0


async def output(visit: Visit) -> web.StreamResponse:
    """A file that a generation made, as it is; a part of it where a player asks for one (RFC 9110, 14)."""
    found = await _output_of(visit)
    begin, end = _range_of(visit.request)
    part = await visit.parts.objects.read(found["object_key"], begin=begin, end=end)
    content_type = found.get("content_type", "")
    response = web.StreamResponse(
        status=206 if part.content_range else 200,
        headers={
            hdrs.CONTENT_TYPE: content_type if content_type in MEDIA_TYPES else "application/octet-stream",
            hdrs.CONTENT_LENGTH: str(part.size_bytes),
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CACHE_CONTROL: f"private, max-age={_KEPT_SECONDS}, immutable",
            hdrs.CONTENT_DISPOSITION: "inline" if content_type in MEDIA_TYPES else "attachment",
            **({hdrs.CONTENT_RANGE: part.content_range} if part.content_range else {}),
        },
    )
    return await _sent(visit.request, response, part.chunks)


async def thumbnail(visit: Visit) -> web.StreamResponse:
    """A small picture of an image that a generation made."""
    found = await _output_of(visit)
    if found.get("type") != "image" or found.get("size_bytes", 0) > _SOURCE_LIMIT_BYTES:
        raise NotFound("index", "There is no small picture of this.")
    content = bytearray()
    async with aclosing(visit.parts.objects.stream(found["object_key"])) as chunks:
        async for chunk in chunks:
            content += chunk
            if len(content) > _SOURCE_LIMIT_BYTES:
                raise NotFound("index", "There is no small picture of this.")
    try:
        prepared = (await visit.parts.preparer.prepare(bytes(content), _THUMBNAIL)).prepared
    except ImageFault as fault:
        raise GenerationError(ErrorCode.INVALID_REQUEST, f"The image cannot be shown: {fault}") from fault
    response = web.Response(
        body=prepared.content,
        content_type=prepared.content_type,
        headers={hdrs.CACHE_CONTROL: f"private, max-age={_KEPT_SECONDS}, immutable"},
    )
    dress(response, FILE_POLICY)
    return response


async def batch_results(visit: Visit) -> web.StreamResponse:
    """All results of a batch: lines of JSON, or a ZIP of the files."""
    batch_id = visit.named("batch_id")
    if await visit.parts.batches.get(batch_id, owner=None) is None:
        raise NotFound("batch_id", f"There is no batch {batch_id[:100]!r}.")
    is_zip = visit.asked("format") == "zip"
    make = visit.parts.export.archive if is_zip else visit.parts.export.lines
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: FORMATS["zip" if is_zip else "jsonl"],
            hdrs.CONTENT_DISPOSITION: f'attachment; filename="{batch_id}.{"zip" if is_zip else "jsonl"}"',
        }
    )
    return await _sent(visit.request, response, make(batch_id))


async def _sent(
    request: web.Request, response: web.StreamResponse, chunks: AsyncGenerator[bytes]
) -> web.StreamResponse:
    dress(response, FILE_POLICY)
    return await send(request, response, chunks, write_seconds=_WRITE_SECONDS)


async def _output_of(visit: Visit) -> Json:
    record = await visit.parts.generations.get(visit.named("id"))
    outputs = (record.outputs or []) if record is not None else []
    index = visit.request.match_info["index"]
    if not index.isascii() or not index.isdigit() or len(index) > 2 or int(index) >= len(outputs):
        raise NotFound("index", "There is no such file.")
    found = outputs[int(index)]
    if "object_key" not in found:
        raise NotFound("index", "This file is not in our storage.")
    return found


def _range_of(request: web.Request) -> tuple[int | None, int | None]:
    """First and last byte asked for, if a single range is; anything else is as if none were."""
    try:
        wanted = request.http_range
    except ValueError:
        return None, None
    begin, end = wanted.start, wanted.stop
    if begin is None or begin < 0:
        return None, None
    return begin, end - 1 if end is not None else None
