"""Clients, streams and calls that end with their block, also where it fails or is cancelled.

What is left to the garbage collector is closed in some later test, whose event loop is another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class _Closable(Protocol):
    def close(self) -> Awaitable[Any]: ...


class _Cancellable(Protocol):
    def cancel(self) -> bool: ...


Closable = TypeVar("Closable", bound=_Closable)
Cancellable = TypeVar("Cancellable", bound=_Cancellable)


@asynccontextmanager
async def closing(client: Closable) -> AsyncIterator[Closable]:
    """Close the client at the end of the block."""
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def cancelling(call: Cancellable) -> Iterator[Cancellable]:
    """Cancel the RPC at the end of the block, unless it has ended. The block may read a part of its stream."""
    try:
        yield call
    finally:
        call.cancel()


@asynccontextmanager
async def in_progress(call: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run a call beside the block. At the end of the block it is cancelled, unless it has ended, and awaited."""
    task = asyncio.create_task(call)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
