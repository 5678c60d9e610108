"""Nudges: calls that only save waiting. One at a time; the next covers what came meanwhile; a lost one is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import structlog
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub

log = structlog.get_logger()
# A nudge wakes; whoever is woken looks at all rows anyway.
_LIMIT = 500
_TIMEOUT_SECONDS = 2.0


class Nudges:
    """Tells a peer of changes that are committed.

    Args:
        send: calls the peer with the ids that have come together. An AioRpcError costs latency and nothing else: the
            rows are the truth.
        between_seconds: the least pause between two calls; a call costs more than a wait that nobody sees.
    """

    def __init__(self, send: Callable[[Sequence[str]], Awaitable[Any]], *, between_seconds: float) -> None:
        self._send = send
        self._between_seconds = between_seconds
        self._to_tell: dict[str, None] = {}
        self._telling: asyncio.Task[None] | None = None

    def note(self, key: str) -> None:
        """Tell of this, soon. One that waits to be told already is told once."""
        self._to_tell[key] = None
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def close(self) -> None:
        """Let the call under way end."""
        if self._telling is not None:
            await self._telling

    async def _tell(self) -> None:
        while self._to_tell:
            told, self._to_tell = list(self._to_tell)[:_LIMIT], {}
            try:
                await self._send(told)
            except grpc.aio.AioRpcError as error:
                log.debug("nudge lost", status=error.code().name, told=len(told))
            await asyncio.sleep(self._between_seconds)


def generation_nudges(dispatcher: DispatcherServiceStub, *, between_seconds: float) -> Nudges:
    """Tell dispatchers of generations that were committed and wait."""

    async def send(ids: Sequence[str]) -> None:
        await dispatcher.Dispatch(dispatcher_pb2.DispatchRequest(generation_ids=ids), timeout=_TIMEOUT_SECONDS)

    return Nudges(send, between_seconds=between_seconds)


def batch_nudges(dispatcher: DispatcherServiceStub, *, between_seconds: float) -> Nudges:
    """Tell dispatchers of batches that were made or changed, or of which something has ended."""

    async def send(ids: Sequence[str]) -> None:
        await dispatcher.Dispatch(dispatcher_pb2.DispatchRequest(batch_ids=ids), timeout=_TIMEOUT_SECONDS)

    return Nudges(send, between_seconds=between_seconds)
