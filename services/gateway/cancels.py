"""Cancelling: the request is committed, then the service that holds the generation is woken."""

from __future__ import annotations

import asyncio

import grpc
import structlog
from darkroom.dispatcher.v1 import dispatcher_pb2
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub
from darkroom.poller.v1 import poller_pb2
from darkroom.poller.v1.poller_pb2_grpc import PollingServiceStub

from libs.common import metrics
from libs.common.database.records import GenerationRecord
from libs.common.database.states import State
from libs.common.database.stores.cancelling import CancelStore
from libs.common.database.stores.generations import GenerationStore
from libs.common.errors import ErrorCode, GenerationError, NotFound
from libs.common.rpc.deadlines import after_commit

log = structlog.get_logger()
_WAKEUP_TIMEOUT_SECONDS = 2.0


def no_generation(generation_id: str) -> NotFound:
    """There is none of that id."""
    return NotFound("id", f"There is no generation {generation_id[:100]!r}.")


def _already_ended(record: GenerationRecord) -> GenerationError:
    return GenerationError(
        ErrorCode.ALREADY_ENDED,
        f"The generation has ended as {record.state}, and cannot be cancelled any more.",
        details={"status": str(record.state)},
    )


class Cancels:
    """Requests cancels."""

    def __init__(
        self,
        store: CancelStore,
        generations: GenerationStore,
        dispatcher: DispatcherServiceStub,
        poller: PollingServiceStub,
    ) -> None:
        self._store = store
        self._generations = generations
        self._dispatcher = dispatcher
        self._poller = poller
        self._wakeups: set[asyncio.Task[None]] = set()

    async def cancel(self, generation_id: str, *, owner: str | None) -> GenerationRecord:
        """Ask for a generation to be cancelled, and return it as it stands then.

        Raises:
            NotFound: there is none of that id, or it is another owner's.
            GenerationError: ALREADY_ENDED for one that has ended before.
        """
        state = await self._store.request(generation_id, owner=owner)
        with after_commit(generation_id=generation_id):
            record = await self._generations.get(generation_id, owner=owner)
        if record is None:
            raise no_generation(generation_id)
        if state is None:
            raise _already_ended(record)
        if state is State.CANCELLED:
            seconds = (record.updated_at - record.created_at).total_seconds()
            code = ErrorCode.TASK_CANCELLED.value
            metrics.count_end(record.model_identifier, record.provider_id, state, code, seconds)
        else:
            self._wake_holder(record)
        log.info("cancel requested", generation_id=generation_id, state=state.value)
        return record

    async def close(self) -> None:
        """Let the wake-ups in progress end."""
        await asyncio.gather(*self._wakeups)

    def _wake_holder(self, record: GenerationRecord) -> None:
        task = asyncio.create_task(self._send(record))
        self._wakeups.add(task)
        task.add_done_callback(self._wakeups.discard)

    async def _send(self, record: GenerationRecord) -> None:
        try:
            if record.state == State.DISPATCHING:
                asked = dispatcher_pb2.CancelGenerationRequest(generation_ids=[record.id])
                await self._dispatcher.CancelGeneration(asked, timeout=_WAKEUP_TIMEOUT_SECONDS)
            else:
                wake = poller_pb2.AddTaskRequest(generation_id=record.id)
                await self._poller.AddTask(wake, timeout=_WAKEUP_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            # The request is committed: whoever holds the row sees it at the latest when it writes.
            log.debug("wake-up lost", status=error.code().name, generation_id=record.id)
