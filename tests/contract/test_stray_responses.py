"""A host that answers more than it was asked: nobody gets what was meant for another request."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from PIL import Image

from libs.common.storage.download import Downloader
from tests.contract.test_provider_http import _client


@asynccontextmanager
async def _answering_twice(content: bytes, content_type: str) -> AsyncIterator[str]:
    """A host that answers each request with `content`, in which `{path}` is the path, and the first one again later."""
    strays: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = content.replace(b"{path}", head.split()[1])
                reply = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
                writer.write(reply.encode() + body)
                await writer.drain()
                if not strays:
                    strays.append(body)
                    await asyncio.sleep(0.05)
                    writer.write(reply.encode() + body)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_check_reads_the_answer_to_its_own_request() -> None:
    async with _answering_twice(b'{"path": "{path}"}', "application/json") as base_url, _client(base_url) as http:
        for number in range(4):
            assert (await http.get(f"/{number}")).body == {"path": f"/{number}"}
            await asyncio.sleep(0.2)


async def test_a_download_gets_its_own_file() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    downloader = Downloader(limit_bytes=100_000, timeout_seconds=5)
    try:
        async with _answering_twice(file.getvalue() + b"{path}", "image/png") as base_url:
            for number in range(4):
                url = f"{base_url}/{number}"
                with await downloader.fetch(url, "image", allowed_hosts=["127.0.0.1"]) as media:
                    assert media.file.read().endswith(f"/{number}".encode())
                await asyncio.sleep(0.2)
    finally:
        await downloader.close()
