"""Tells the poller that tasks and results were handed over. Their rows are committed: a lost call costs latency."""

from __future__ import annotations

import asyncio

import grpc
import structlog
from darkroom.poller.v1 import poller_pb2
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common.database.records import ClaimedGeneration, NewTask

log = structlog.get_logger()
_TIMEOUT_SECONDS = 2.0


class Wakeups:
    """Sends one call at a time: the next one covers what is handed over meanwhile, for the poller looks at all rows."""

    def __init__(self, poller: PollingServiceStub) -> None:
        self._poller = poller
        self._next: poller_pb2.AddTaskRequest | None = None
        self._sending: asyncio.Task[None] | None = None

    def note(self, claimed: ClaimedGeneration, task: NewTask | None) -> None:
        """A task was handed over and committed; without one, results that wait to be stored."""
        self._next = poller_pb2.AddTaskRequest(generation_id=claimed.id, provider_id=claimed.provider_id)
        if task is not None:
            self._next.task_id, self._next.adapter_name = task.task_id, task.adapter_name
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._next is not None:
            request, self._next = self._next, None
            try:
                await self._poller.AddTask(request, timeout=_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError as error:
                log.debug("wake-up lost", status=error.code().name)

    async def close(self) -> None:
        """Let the call under way end."""
        if self._sending is not None:
            await self._sending
