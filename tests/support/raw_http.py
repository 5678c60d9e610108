"""A server that answers every connection with the same bytes, however wrong they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def answering(raw: bytes, *, holds: bool = False) -> AsyncIterator[str]:
    """The base URL of a server that sends `raw` once a request has come, and then closes; with `holds` it does not."""
    released = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(raw)
            await writer.drain()
            if holds:
                await released.wait()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        released.set()
        server.close()
        await server.wait_closed()


def chunked(content: bytes) -> bytes:
    """A body in one chunk, without the last chunk that ends it."""
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"
