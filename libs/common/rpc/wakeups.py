"""Wake-ups: RPCs that save waiting and nothing else. One at a time; what comes meanwhile goes with the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import structlog
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.poller.v1 import poller_pb2
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

log = structlog.get_logger()
# The service that is woken reads all rows anyway.
_LIMIT = 500
_TIMEOUT_SECONDS = 2.0
Change = TypeVar("Change", bound=Hashable)


class Wakeups(Generic[Change]):
    """Tells a peer of changes that are committed.

    Args:
        send: calls the peer with the changes that have come together. An AioRpcError costs latency and nothing else:
            the rows are the truth.
        between_seconds: the least pause between two calls; a call costs more than a wait that nobody sees.
    """

    def __init__(self, send: Callable[[Sequence[Change]], Awaitable[Any]], *, between_seconds: float = 0.0) -> None:
        self._send = send
        self._between_seconds = between_seconds
        self._to_tell: dict[Change, None] = {}
        self._telling: asyncio.Task[None] | None = None

    def note(self, change: Change) -> None:
        """Send a wake-up for this change soon. A change that is already waiting is sent once."""
        self._to_tell[change] = None
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def close(self) -> None:
        """Let the call in progress end."""
        if self._telling is not None:
            await self._telling

    async def _tell(self) -> None:
        while self._to_tell:
            told, self._to_tell = list(self._to_tell)[:_LIMIT], {}
            try:
                await self._send(told)
            except grpc.aio.AioRpcError as error:
                log.debug("wake-up lost", status=error.code().name, told=len(told))
            await asyncio.sleep(self._between_seconds)


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A generation whose task or result waits for the poller. `task_id`, `adapter_name`: empty for a result."""

    generation_id: str
    provider_id: str
    task_id: str = ""
    adapter_name: str = ""


def generation_wakeups(dispatcher: DispatcherServiceStub, *, between_seconds: float) -> Wakeups[str]:
    """Tell dispatchers of generations that were committed and wait, by their ids."""

    async def send(ids: Sequence[str]) -> None:
        await dispatcher.Dispatch(dispatcher_pb2.DispatchRequest(generation_ids=ids), timeout=_TIMEOUT_SECONDS)

    return Wakeups(send, between_seconds=between_seconds)


def batch_wakeups(dispatcher: DispatcherServiceStub, *, between_seconds: float) -> Wakeups[str]:
    """Tell dispatchers of batches that were made or changed, or of which something has ended, by their ids."""

    async def send(ids: Sequence[str]) -> None:
        await dispatcher.Dispatch(dispatcher_pb2.DispatchRequest(batch_ids=ids), timeout=_TIMEOUT_SECONDS)

    return Wakeups(send, between_seconds=between_seconds)


def poller_wakeups(poller: PollingServiceStub) -> Wakeups[HandedOver]:
    """Tell the poller of tasks and results that were handed over. It looks at all rows: one of each kind is named."""

    async def send(handed_over: Sequence[HandedOver]) -> None:
        # A result is named rather than a task, for it wakes both of the poller's loops.
        named = next((one for one in handed_over if not one.task_id), handed_over[-1])
        request = poller_pb2.AddTaskRequest(
            generation_id=named.generation_id,
            provider_id=named.provider_id,
            task_id=named.task_id,
            adapter_name=named.adapter_name,
        )
        await poller.AddTask(request, timeout=_TIMEOUT_SECONDS)

    return Wakeups(send)
