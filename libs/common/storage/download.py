"""Fetches a result: as a stream, within limits, under the rules about addresses, with its type found in its bytes."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

import aiohttp
import filetype
from yarl import URL

from libs.common.errors import ErrorCode, GenerationError
from libs.common.storage.addresses import check_url, guarded_session, parsed_url

REDIRECTS = 3
HeadersFor = Callable[[URL], Mapping[str, str]]
_MEMORY_BYTES = 4 * 1024**2
_CHUNK_BYTES = 256 * 1024
_SNIFF_BYTES = 8_192
_RESULT = "The result"
MEDIA_TYPES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/gif",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/quicktime",
    }
)
"""What results may be, as their bytes say: pictures and videos that browsers show and never run."""


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

    def add(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if self._size_bytes > self._limit_bytes:
            raise GenerationError(ErrorCode.PROVIDER_ERROR, f"{self._what} is larger than {self._limit_bytes} bytes.")
        self._hash.update(chunk)
        self._file.write(chunk)
        if len(self._head) < _SNIFF_BYTES:
            self._head += chunk[: _SNIFF_BYTES - len(self._head)]

    def finish(self, media_type: str) -> Media:
        kind = filetype.guess(self._head)
        if kind is None or kind.mime not in MEDIA_TYPES or not kind.mime.startswith(f"{media_type}/"):
            found = kind.mime if kind else "of no known type"
            raise GenerationError(
                ErrorCode.PROVIDER_ERROR,
                f"{self._what} is not {media_type}: its bytes are {found}.",
                is_retryable=False,
            )
        self._file.seek(0)
        return Media(self._file, kind.mime, kind.extension, self._size_bytes, self._hash.hexdigest())

    def content(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        self._file.close()


def from_bytes(content: bytes, media_type: str, *, limit_bytes: int) -> Media:
    """A file that a provider sent in its reply. Raises as `Downloader.fetch` does."""
    with ExitStack() as undo:
        collector = _Collector(limit_bytes, _RESULT)
        undo.callback(collector.close)
        collector.add(content)
        media = collector.finish(media_type)
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
        self, url: str, media_type: str, *, allowed_hosts: Sequence[str], headers_for: HeadersFor = no_headers
    ) -> Media:
        """Fetch `url` and find out what it is.

        Args:
            url: http or https.
            media_type: `image` or `video`: what the bytes must be.
            allowed_hosts: hosts that may have private addresses.
            headers_for: gives the headers for a URL, asked anew at each redirect.

        Raises GenerationError: INVALID_REQUEST for an address that is refused, PROVIDER_UNAVAILABLE and
        PROVIDER_TIMEOUT (retryable) for a host that does not answer, PROVIDER_ERROR for what it answers.
        """
        with ExitStack() as undo:
            collector = _Collector(self._limit_bytes, self._what)
            undo.callback(collector.close)
            await self._collect_or_explain(url, tuple(allowed_hosts), collector, headers_for)
            media = collector.finish(media_type)
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
                if response.status != 200:
                    # Gone for good where the host says so; else worth another look.
                    gone = response.status in {400, 401, 403, 404, 410}
                    raise GenerationError(
                        ErrorCode.PROVIDER_ERROR,
                        f"{self._what}'s host answered {response.status}.",
                        {"http_status": response.status, "host": target.host},
                        is_retryable=not gone,
                    )
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    if len(chunk) > _CHUNK_BYTES // 4:
                        await asyncio.to_thread(collector.add, chunk)
                    else:
                        collector.add(chunk)
                return
        raise GenerationError(ErrorCode.PROVIDER_ERROR, f"{self._what}'s URL redirects more than {REDIRECTS} times.")

    def _session(self, allowed_hosts: tuple[str, ...]) -> aiohttp.ClientSession:
        if allowed_hosts not in self._sessions:
            self._sessions[allowed_hosts] = guarded_session(allowed_hosts)
        return self._sessions[allowed_hosts]

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
