"""HTTP/1.1 over a socket: what was sent is exactly what was given, and the answer is read without forgiveness."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from tests.fuzz.requests import Sent

ANSWER_SECONDS = 30.0
"""How long an answer may take at most. The longest work that a case can ask for is an image, and a wait of /v1."""

_STREAM_SECONDS = 0.3
_HEAD_LIMIT_BYTES = 64 * 1024
_BODY_LIMIT_BYTES = 64 * 1024 * 1024
_NO_BODY = frozenset({204, 304})


@dataclass
class Answer:
    """What came back. `status` is 0 where the connection was closed without an answer, and -1 where none came in time."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    fault: str = ""


class _NotHttp(Exception):
    """An answer that is no HTTP."""


class Wire:
    """One client with one connection, which is kept while both sides want that.

    Args:
        port: where the gateway serves HTTP.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, sent: Sent) -> Answer:
        """Send the bytes, and read one answer."""
        if sent.is_odd:
            return await self._on_new(sent)
        if self._kept is not None:
            answer = await self._on_kept(sent)
            # A server may close a connection that waits at any moment.
            if answer.status != 0:
                return answer
        return await self._on_new(sent)

    async def close(self) -> None:
        """Close the connection."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    async def _on_kept(self, sent: Sent) -> Answer:
        kept, self._kept = self._kept, None
        assert kept is not None
        return await self._speak(*kept, sent)

    async def _on_new(self, sent: Sent) -> Answer:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=_HEAD_LIMIT_BYTES)
        except OSError as error:
            return Answer(-1, fault=f"cannot connect: {error}")
        return await self._speak(reader, writer, sent)

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: Sent) -> Answer:
        is_kept = False
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writing = asyncio.ensure_future(_write(writer, sent))
                try:
                    answer, is_kept = await _read(reader, sent)
                finally:
                    writing.cancel()
                    with contextlib.suppress(asyncio.CancelledError, OSError):
                        await writing
        except TimeoutError:
            return Answer(-1, fault=f"no whole answer within {ANSWER_SECONDS:g} s")
        except (OSError, asyncio.IncompleteReadError):
            return Answer(0)
        except (_NotHttp, ValueError, asyncio.LimitOverrunError) as error:
            return Answer(-1, fault=f"the answer is no HTTP: {error}")
        finally:
            if is_kept and not sent.is_odd and self._kept is None:
                self._kept = (reader, writer)
            else:
                writer.close()
        return answer


async def _write(writer: asyncio.StreamWriter, sent: Sent) -> None:
    writer.write(sent.raw)
    await writer.drain()
    if not sent.must_answer:
        # A reader that waits for more data gets the end of the stream.
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _read(reader: asyncio.StreamReader, sent: Sent) -> tuple[Answer, bool]:
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        if not head[0].startswith("HTTP/"):
            raise _NotHttp(head[0][:100])
        status = int(head[0].split()[1])
        if status >= 200:
            break
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    answer = Answer(status, headers)
    if sent.method == b"HEAD" or status in _NO_BODY:
        return answer, headers.get("connection") != "close"
    if headers.get("content-type", "").startswith("text/event-stream"):
        with contextlib.suppress(TimeoutError):
            answer.body = await asyncio.wait_for(reader.read(4_096), _STREAM_SECONDS)
        return answer, False
    answer.body = await _body(reader, headers)
    return answer, headers.get("connection") != "close" and "http/1.0" not in head[0].lower()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", ""):
        found = b""
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            found += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return found
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read(_BODY_LIMIT_BYTES)
