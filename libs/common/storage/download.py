"""Fetches a result: as a stream, within limits, under the rules about addresses, with its type found in its bytes."""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Literal, Self

import aiohttp
from yarl import URL

from libs.common.endings import has_its_end, is_cut_off
from libs.common.errors import ErrorCode, GenerationError
from libs.common.storage.addresses import check_url, guarded_session, parsed_url
from libs.common.storage.media import SNIFF_BYTES, UNKNOWN, Kind, is_svg, is_text, kind_of
from libs.common.unpacking import READS_PAID_WORK, Unpacker

REDIRECTS = 3
HeadersFor = Callable[[URL], Mapping[str, str]]
_MEMORY_BYTES = 4 * 1024**2
_CHUNK_BYTES = 256 * 1024
_SHOWN_BYTES = 100
_RESULT = "The result"
_CONTENT_RANGE = re.compile(r"bytes 0-(\d{1,15})/(\d{1,15}|\*)")


def _shown(head: bytes) -> str:
    """The beginning of a file as text that a row can keep."""
    return "".join(character if character.isprintable() else "." for character in head[:_SHOWN_BYTES].decode("latin-1"))


def no_headers(_: URL) -> Mapping[str, str]:
    """None for any URL."""
    return {}


@dataclass(frozen=True, slots=True)
class Media:
    """A fetched file: small ones in memory, larger ones on disk. Use as a context manager; it is gone afterwards."""

    file: IO[bytes]
    content_type: str
    extension: str
    size_bytes: int
    sha256: str

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


class _Collector:
    """Writes chunks to a spooled file, counting and hashing."""

    def __init__(self, limit_bytes: int, what: str) -> None:
        self._limit_bytes = limit_bytes
        self._what = what
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)
        self._hash = hashlib.sha256()
        self._head = b""
        self._size_bytes = 0

    def has_its_end(self) -> bool:
        """Whether the file's own format says that all of it is here."""
        return has_its_end(self._file, self._size_bytes)

    def is_cut_off(self) -> bool:
        """Whether the file's own format says that more follows."""
        return is_cut_off(self._file, self._size_bytes)

    def add(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if self._size_bytes > self._limit_bytes:
            raise GenerationError(
                ErrorCode.PROVIDER_ERROR,
                f"{self._what} is larger than {self._limit_bytes} bytes.",
                {"limit_bytes": self._limit_bytes},
            )
        self._hash.update(chunk)
        self._file.write(chunk)
        if len(self._head) < SNIFF_BYTES:
            self._head += chunk[: SNIFF_BYTES - len(self._head)]

    def finish(self, media_type: str, *, takes_any: bool) -> Media:
        kind = self._kind(media_type, takes_any=takes_any)
        self._file.seek(0)
        return Media(self._file, kind.content_type, kind.extension, self._size_bytes, self._hash.hexdigest())

    def _kind(self, media_type: str, *, takes_any: bool) -> Kind:
        found = kind_of(self._head)
        if found is not None and (takes_any or found.content_type.startswith(f"{media_type}/")):
            return found
        if found is None and takes_any and (not is_text(self._head) or is_svg(self._head)):
            return UNKNOWN
        raise GenerationError(
            ErrorCode.PROVIDER_ERROR,
            f"{self._what} is not {media_type}: its bytes are {found.content_type if found else 'of no known type'}.",
            {"size_bytes": self._size_bytes, "head": _shown(self._head)},
            is_retryable=False,
        )

    def content(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        self._file.close()


def from_bytes(content: bytes, media_type: str, *, limit_bytes: int, takes_any: bool = False) -> Media:
    """Find out what a file is whose bytes are there already.

    Args:
        content: its bytes.
        media_type: `image` or `video`: what the bytes must be.
        limit_bytes: the largest size taken.
        takes_any: as for `Downloader.fetch`.

    Raises as `Downloader.fetch` does.
    """
    with ExitStack() as undo:
        collector = _Collector(limit_bytes, _RESULT)
        undo.callback(collector.close)
        collector.add(content)
        media = collector.finish(media_type, takes_any=takes_any)
        undo.pop_all()
        return media


class Downloader:
    """Fetches results.

    Args:
        limit_bytes: the largest file taken.
        timeout_seconds: for all of one file.
        what: how errors call what is fetched.
    """

    def __init__(self, *, limit_bytes: int, timeout_seconds: float, what: str = _RESULT) -> None:
        self._limit_bytes = limit_bytes
        self._what = what
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=10, sock_read=60)
        self._sessions: dict[tuple[str, ...], aiohttp.ClientSession] = {}

    async def fetch(
        self,
        url: str,
        media_type: str,
        *,
        allowed_hosts: Sequence[str],
        headers_for: HeadersFor = no_headers,
        takes_any: bool = False,
        takes_cut_off: bool = True,
    ) -> Media:
        """Fetch `url` and find out what it is.

        Args:
            url: http or https.
            media_type: `image` or `video`: what the bytes must be.
            allowed_hosts: hosts that may have private addresses.
            headers_for: gives the headers for a URL, asked anew at each redirect.
            takes_any: whether a file of another kind is taken as well: media with their own type, whatever else is
                no text as `application/octet-stream`, and so SVG. Empty files, HTML, JSON and other text never are.
            takes_cut_off: whether a file is taken whose own format says that more follows.

        Raises GenerationError: INVALID_REQUEST for an address that is refused, PROVIDER_UNAVAILABLE and
        PROVIDER_TIMEOUT (retryable) for a host that does not answer, PROVIDER_ERROR for what it answers (retryable for
        a file that is cut off).
        """
        with ExitStack() as undo:
            collector = _Collector(self._limit_bytes, self._what)
            undo.callback(collector.close)
            await self._collect_or_explain(url, tuple(allowed_hosts), collector, headers_for)
            media = collector.finish(media_type, takes_any=takes_any)
            if not takes_cut_off and await asyncio.to_thread(collector.is_cut_off):
                raise GenerationError(
                    ErrorCode.PROVIDER_ERROR,
                    f"{self._what} is cut off: its own format says that more follows.",
                    {"size_bytes": media.size_bytes},
                    is_retryable=True,
                )
            undo.pop_all()
            return media

    async def read(self, url: str, *, allowed_hosts: Sequence[str]) -> bytes:
        """The content of `url`, whatever it is. Raises as `fetch` does, but for the type."""
        collector = _Collector(self._limit_bytes, self._what)
        try:
            await self._collect_or_explain(url, tuple(allowed_hosts), collector, no_headers)
            return await asyncio.to_thread(collector.content)
        finally:
            collector.close()

    async def _collect_or_explain(
        self, url: str, allowed_hosts: tuple[str, ...], collector: _Collector, headers_for: HeadersFor
    ) -> None:
        try:
            await self._collect(url, allowed_hosts, collector, headers_for)
        except TimeoutError as error:
            raise GenerationError(ErrorCode.PROVIDER_TIMEOUT, f"{self._what} could not be fetched in time.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise GenerationError(
                ErrorCode.PROVIDER_UNAVAILABLE, f"{self._what} could not be fetched.", {"cause": type(error).__name__}
            ) from error

    async def _collect(
        self, url: str, allowed_hosts: tuple[str, ...], collector: _Collector, headers_for: HeadersFor
    ) -> None:
        target = parsed_url(url)
        for _ in range(REDIRECTS + 1):
            check_url(target, allowed_hosts)
            session = self._session(allowed_hosts)
            headers = headers_for(target)
            async with session.get(target, timeout=self._timeout, allow_redirects=False, headers=headers) as response:
                if response.status in {301, 302, 303, 307, 308} and "location" in response.headers:
                    target = target.join(parsed_url(response.headers["location"]))
                    continue
                part = _part(response)
                if part == "no":
                    # Gone for good where the host says so; else worth another look.
                    gone = response.status in {400, 401, 403, 404, 410}
                    raise GenerationError(
                        ErrorCode.PROVIDER_ERROR,
                        f"{self._what}'s host answered {response.status}.",
                        {"http_status": response.status, "host": target.host},
                        is_retryable=not gone,
                    )
                await _collect_body(response, collector, is_whole=part == "all")
                return
        raise GenerationError(ErrorCode.PROVIDER_ERROR, f"{self._what}'s URL redirects more than {REDIRECTS} times.")

    def _session(self, allowed_hosts: tuple[str, ...]) -> aiohttp.ClientSession:
        if allowed_hosts not in self._sessions:
            self._sessions[allowed_hosts] = guarded_session(allowed_hosts, **READS_PAID_WORK)
        return self._sessions[allowed_hosts]

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()


def _part(response: aiohttp.ClientResponse) -> Literal["all", "unknown", "no"]:
    """How much of the file a response holds: all, an unknown part, or no usable part.

    RFC 9110: 15.3.4 for 203, 15.3.7 for 206, which must have a Content-Range; some hosts omit it or its size.
    """
    if response.status != 206:
        return "all" if response.status in {200, 203} else "no"
    told = response.headers.get("content-range", "").strip()
    found = _CONTENT_RANGE.fullmatch(told)
    if not told or (found is not None and found[2] == "*"):
        return "unknown"
    return "all" if found is not None and int(found[1]) + 1 == int(found[2]) else "no"


async def _collect_body(response: aiohttp.ClientResponse, collector: _Collector, *, is_whole: bool) -> None:
    """Collect the body.

    A body that was cut off, or of which the host does not say that it is whole, is taken where its own format says so.
    Raises ClientPayloadError or TimeoutError for any other, and ValueError for one that does not unpack.
    """
    try:
        await _collect_all(response, collector)
    except (aiohttp.ClientPayloadError, TimeoutError, ValueError):
        if not await asyncio.to_thread(collector.has_its_end):
            raise
        return
    if not is_whole and not await asyncio.to_thread(collector.has_its_end):
        raise aiohttp.ClientPayloadError("a part of the file")


@contextmanager
def _receiving_paused(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Receive nothing meanwhile: what aiohttp has buffered is lost once the connection breaks."""
    protocol = response.connection.protocol if response.connection is not None else None
    if protocol is None:
        yield
        return
    protocol.pause_reading()
    try:
        yield
    finally:
        protocol.resume_reading()


async def _collect_all(response: aiohttp.ClientResponse, collector: _Collector) -> None:
    unpacker = Unpacker(response.headers.get("content-encoding", ""))
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        for piece in unpacker.unpack(chunk):
            if len(piece) > _CHUNK_BYTES // 4:
                with _receiving_paused(response):
                    await asyncio.to_thread(collector.add, piece)
            else:
                collector.add(piece)
    collector.add(unpacker.finish())
