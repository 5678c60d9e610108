"""One kept connection to an HTTP server, whose answers are read as their requests demand (RFC 9112, section 6.3)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Kept:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self._host = reader, writer, host

    def send(self, method: str, path: str, **headers: str) -> None:
        """Send a request without a body."""
        given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.writer.write(f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\n{given}\r\n".encode())

    async def ask(self, method: str, path: str, **headers: str) -> Answer:
        """Send a request without a body, and read its answer."""
        self.send(method, path, **headers)
        return await self.answer(method)

    async def answer(self, method: str) -> Answer:
        """The next answer, to a request of that method."""
        async with asyncio.timeout(30):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = lines[0].split()
            assert status[0] == "HTTP/1.1", lines[0][:100]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            is_bodiless = method == "HEAD" or int(status[1]) in {204, 304}
            return Answer(int(status[1]), headers, b"" if is_bodiless else await self._body(headers))

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return await self.reader.readexactly(int(headers["content-length"]))
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return body


@asynccontextmanager
async def kept_connection(url: str) -> AsyncIterator[Kept]:
    """A connection to the server at `url`."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield Kept(reader, writer, parts.netloc)
    finally:
        writer.transport.abort()
