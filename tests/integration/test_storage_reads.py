"""Reads of object storage whose readers go away."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from libs.common.settings import Settings
from libs.common.storage.objects import ObjectStore

_PIECE, _HUNG_SECONDS = 300_000, 10.0


@contextmanager
def _hanging_store() -> Iterator[tuple[str, threading.Event]]:
    """The URL of a store that stops within an object, on a thread of its own; and whether its reader has gone."""
    gone, listening = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65_536)
            head = f"HTTP/1.1 200 OK\r\ncontent-length: {10 * _PIECE}\r\n\r\n".encode()
            connection.sendall(head + bytes(_PIECE))
            connection.settimeout(_HUNG_SECONDS)
            try:
                if connection.recv(1) == b"":
                    gone.set()
            except ConnectionError:
                gone.set()
            except TimeoutError:
                # It is resumed, so that tasks that wait for it can end.
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", gone
    finally:
        thread.join()
        listening.close()


@pytest.mark.slow
async def test_a_reader_that_leaves_a_hung_store_holds_up_nobody(settings: Settings) -> None:
    with _hanging_store() as (url, _):
        objects = ObjectStore(settings.model_copy(update={"s3_endpoint_url": url}))
        part = await objects.read("object")
        assert await anext(part.chunks)
        waiting = asyncio.ensure_future(anext(part.chunks))
        # It does not end: a thread is in the midst of the read.
        assert not (await asyncio.wait([waiting], timeout=0.5))[0]
        began = monotonic()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await part.chunks.aclose()
        assert monotonic() - began < _HUNG_SECONDS / 4
        await objects.close()


async def test_a_reader_that_stops_closes_the_connection_to_the_store(settings: Settings) -> None:
    with _hanging_store() as (url, gone):
        objects = ObjectStore(settings.model_copy(update={"s3_endpoint_url": url}))
        part = await objects.read("object")
        assert await anext(part.chunks)
        await part.chunks.aclose()
        assert await asyncio.to_thread(gone.wait, _HUNG_SECONDS / 2)
        await objects.close()
