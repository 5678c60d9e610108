"""Downloads: stored files, whole or in part, and files that are made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import NamedTuple, Self

import structlog
from aiohttp import hdrs, web

from libs.common.database.records import Json
from libs.common.errors import GenerationError
from libs.common.storage.media import INLINE_TYPES
from libs.common.storage.objects import ObjectStore
from services.gateway.ranges import check_match, is_not_modified, range_of

log = structlog.get_logger()
# Private caches may store a file and must revalidate it before reuse, because it may be deleted.
_REVALIDATED = "private, no-cache"


class StoredFile(NamedTuple):
    """A file in object storage. `etag`: the SHA-256 of its bytes, in hexadecimal digits."""

    key: str
    size_bytes: int
    content_type: str
    etag: str

    @classmethod
    def of(cls, output: Json) -> Self | None:
        """The file of an output of a generation; None for one that stayed with its provider."""
        if "object_key" not in output:
            return None
        return cls(output["object_key"], output["size_bytes"], output["content_type"], output["sha256"])


class Downloads:
    """Sends files, with an answer to HEAD that has no body.

    Args:
        objects: stored files.
        write_seconds: a client that reads nothing for so long is disconnected.
    """

    def __init__(self, objects: ObjectStore, *, write_seconds: float) -> None:
        self._objects = objects
        self._write_seconds = write_seconds

    async def stored(
        self, request: web.Request, file: StoredFile, headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """Send a stored file, or the range of it that the request asks for.

        Args:
            request: GET or HEAD, with its conditions and its range.
            file: what to send.
            headers: more headers of the answer.

        Raises NotFound if storage does not have it, S3_UPLOAD_FAILED if storage does not answer, and aiohttp's 412 and
        416.
        """
        is_shown = file.content_type in INLINE_TYPES
        told = {
            hdrs.ETAG: f'"{file.etag}"',
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CACHE_CONTROL: _REVALIDATED,
            hdrs.CONTENT_TYPE: file.content_type,
            hdrs.CONTENT_DISPOSITION: "inline" if is_shown else "attachment",
            **(headers or {}),
        }
        check_match(request, file.etag)
        if is_not_modified(request, file.etag):
            kept = {name: told[name] for name in (hdrs.ETAG, hdrs.CACHE_CONTROL)}
            return await self._without_body(request, web.StreamResponse(status=304, headers=kept))
        if request.method == hdrs.METH_HEAD:
            told[hdrs.CONTENT_LENGTH] = str(await self._objects.size_bytes(file.key))
            return await self._without_body(request, web.StreamResponse(headers=told))
        return await self._sent_part(request, file, told)

    async def made(
        self, request: web.Request, make: Callable[[], AsyncGenerator[bytes]], headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Send a file that `make` makes in pieces. Its length is not known before, so it has no ranges."""
        response = web.StreamResponse(headers={hdrs.ACCEPT_RANGES: "none", **headers})
        if request.method == hdrs.METH_HEAD:
            return await self._without_body(request, response)
        return await self._send(request, response, make())

    async def _sent_part(self, request: web.Request, file: StoredFile, told: dict[str, str]) -> web.StreamResponse:
        wanted = range_of(request, file.size_bytes, file.etag)
        begin, end = wanted if wanted is not None else (None, None)
        part = await self._objects.read(file.key, begin=begin, end=end)
        told[hdrs.CONTENT_LENGTH] = str(part.size_bytes)
        if part.content_range:
            told[hdrs.CONTENT_RANGE] = part.content_range
        response = web.StreamResponse(status=206 if part.content_range else 200, headers=told)
        return await self._send(request, response, part.chunks)

    @staticmethod
    async def _without_body(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        await response.prepare(request)
        await response.write_eof()
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, chunks: AsyncGenerator[bytes]
    ) -> web.StreamResponse:
        """Send pieces. What fails on the way is cut off, never as if it had ended: half of a file is none."""
        left = response.content_length
        async with aclosing(chunks):
            try:
                await response.prepare(request)
                async for chunk in chunks:
                    if chunk:
                        left = None if left is None else left - len(chunk)
                        async with asyncio.timeout(self._write_seconds):
                            await response.write(chunk)
                if left:
                    raise _EndsEarly
                async with asyncio.timeout(self._write_seconds):
                    await response.write_eof()
            except (TimeoutError, GenerationError, ConnectionError, _EndsEarly) as error:
                if not isinstance(error, ConnectionError):
                    # Else its reader has left.
                    log.warning("file was not sent to its end", error=error)
                if request.transport is not None:
                    request.transport.abort()
        return response


class _EndsEarly(Exception):
    """Storage sent fewer bytes than it had said."""
