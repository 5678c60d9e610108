"""Group commit: concurrent requests share one INSERT, and a committed group one nudge to the dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import structlog
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub

from libs.common import metrics
from libs.common.coalesce import GroupWriter
from libs.common.database.records import NewGeneration
from libs.common.database.stores.generations import GenerationStore

log = structlog.get_logger()
_NUDGE_TIMEOUT_SECONDS = 2.0


class Intake:
    """Commits generations. Two groups may be under way, so that one gathers while others wait for the disk."""

    def __init__(self, generations: GenerationStore, dispatcher: DispatcherServiceStub) -> None:
        self._generations = generations
        self._dispatcher = dispatcher
        self._writer: GroupWriter[NewGeneration, None] = GroupWriter("intake", self._commit, concurrency=2)
        self._nudges: set[asyncio.Task[None]] = set()

    async def accept(self, generation: NewGeneration) -> None:
        """Answer once the generation is committed. Its ticket is good from then on."""
        await self._writer.write(generation)
        metrics.GENERATIONS_CREATED.labels(generation.model_identifier).inc()
        log.info("generation accepted", generation_id=generation.id, model=generation.model_identifier)

    async def close(self) -> None:
        """Commit what was handed in."""
        await self._writer.close()
        await asyncio.gather(*self._nudges)

    async def _commit(self, group: Sequence[NewGeneration]) -> Sequence[None]:
        await self._generations.insert(group)
        self.nudge([generation.id for generation in group])
        return [None] * len(group)

    def nudge(self, generation_ids: list[str]) -> None:
        """Tell the dispatcher that these are committed and wait."""
        if generation_ids:
            task = asyncio.create_task(self._nudge(generation_ids))
            self._nudges.add(task)
            task.add_done_callback(self._nudges.discard)

    async def _nudge(self, generation_ids: list[str]) -> None:
        request = dispatcher_pb2.DispatchRequest(generation_ids=generation_ids)
        try:
            await self._dispatcher.Dispatch(request, timeout=_NUDGE_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            # The rows are committed and the dispatcher's sweep finds them: this costs latency and nothing else.
            log.debug("nudge lost", status=error.code().name, generations=len(generation_ids))
