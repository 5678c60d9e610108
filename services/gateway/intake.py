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
from libs.common.database.records_edge import Accepted, NewRequest
from libs.common.database.states import State
from libs.common.database.stores.intake import Answer, IntakeStore
from libs.common.errors import GenerationError

log = structlog.get_logger()
_NUDGE_TIMEOUT_SECONDS = 2.0
# A nudge wakes; a dispatcher looks at all rows anyway.
_NUDGE_LIMIT = 500
# A call costs as much as taking in two generations, and a wait of this length nobody sees.
_BETWEEN_NUDGES_SECONDS = 0.02
# What comes in while a group is on its way to the disk goes together.
_COMPANY_SECONDS = 0.003


class Intake:
    """Commits generations. Two groups may be under way, so that one gathers while others wait for the disk."""

    def __init__(self, store: IntakeStore, dispatcher: DispatcherServiceStub) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._writer: GroupWriter[NewRequest, Answer] = GroupWriter(
            "intake", self._commit, concurrency=2, busy_linger_seconds=_COMPANY_SECONDS
        )
        self._to_tell: list[str] = []
        self._batches_to_tell: list[str] = []
        self._telling: asyncio.Task[None] | None = None

    async def accept(self, request: NewRequest) -> Accepted:
        """Answer once the generation is committed. Its ticket is good from then on.

        Raises GenerationError ALREADY_EXISTS for an idempotency key that stands for another request, and RATE_LIMITED
        and QUOTA_EXCEEDED where the key's quota is used up.
        """
        answer = await self._writer.write(request)
        if isinstance(answer, GenerationError):
            raise answer
        generation = request.generation
        if answer.is_repeat:
            metrics.REPEATS.labels("idempotency").inc()
        else:
            metrics.GENERATIONS_CREATED.labels(generation.model_identifier).inc()
        if answer.state is State.SUCCESS and not answer.is_repeat:
            metrics.REPEATS.labels("reuse").inc()
            metrics.count_end(generation.model_identifier, generation.provider_id, answer.state, "", 0.0)
        log.info(
            "generation accepted",
            generation_id=answer.generation_id,
            model=generation.model_identifier,
            user_id=generation.user_id,
            is_repeat=answer.is_repeat or None,
            reused_from_id=answer.reused_from_id,
        )
        return answer

    async def close(self) -> None:
        """Commit what was handed in."""
        await self._writer.close()
        if self._telling is not None:
            await self._telling

    async def _commit(self, group: Sequence[NewRequest]) -> Sequence[Answer]:
        answers = await self._store.accept(group)
        self.nudge(
            [
                answer.generation_id
                for answer in answers
                if isinstance(answer, Accepted) and answer.state is State.PENDING and not answer.is_repeat
            ]
        )
        return answers

    def nudge(self, generation_ids: list[str]) -> None:
        """Tell the dispatcher that these are committed. One call at a time; the next covers what came meanwhile."""
        self._to_tell += generation_ids
        self._begin_to_tell()

    def nudge_batch(self, batch_id: str) -> None:
        """Tell the dispatcher that a change of this batch is committed."""
        self._batches_to_tell.append(batch_id)
        self._begin_to_tell()

    def _begin_to_tell(self) -> None:
        is_telling = self._telling is not None and not self._telling.done()
        if (self._to_tell or self._batches_to_tell) and not is_telling:
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        while self._to_tell or self._batches_to_tell:
            told, self._to_tell = self._to_tell[:_NUDGE_LIMIT], []
            batches, self._batches_to_tell = self._batches_to_tell[:_NUDGE_LIMIT], []
            try:
                request = dispatcher_pb2.DispatchRequest(generation_ids=told, batch_ids=batches)
                await self._dispatcher.Dispatch(request, timeout=_NUDGE_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError as error:
                # The rows are committed and the dispatcher's sweep finds them: this costs latency and nothing else.
                log.debug("nudge lost", status=error.code().name, generations=len(told))
            await asyncio.sleep(_BETWEEN_NUDGES_SECONDS)
