"""Group commit: concurrent requests share one INSERT, and a committed group one wake-up of the dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import structlog
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub

from libs.common import metrics
from libs.common.coalesce import GroupWriter
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records_edge import Accepted, Leaving, NewRequest
from libs.common.database.states import State
from libs.common.database.stores.client_calls import CallEnd
from libs.common.database.stores.intake import Answer, IntakeStore, Undecided
from libs.common.errors import GenerationError
from libs.common.rpc.wakeups import generation_wakeups

log = structlog.get_logger()
# A call costs as much as taking in two generations, and a wait of this length nobody sees.
BETWEEN_WAKEUPS_SECONDS = 0.02
# What comes in while a group is on its way to the disk goes together.
_COMPANY_SECONDS = 0.003
# In that time a gateway sees that a client has left, and records it.
_NEWS_SECONDS = 0.25


class Intake:
    """Commits generations. Two groups may be under way, so that one gathers while others wait for the disk."""

    def __init__(self, store: IntakeStore, dispatcher: DispatcherServiceStub) -> None:
        self._store = store
        self._writer: GroupWriter[NewRequest, Answer] = GroupWriter(
            "intake", self._commit, concurrency=2, busy_linger_seconds=_COMPANY_SECONDS
        )
        self._wakeups = generation_wakeups(dispatcher, between_seconds=BETWEEN_WAKEUPS_SECONDS)

    async def accept(self, request: NewRequest) -> Accepted:
        """Answer once the generation is committed. A caller that is cancelled meanwhile may find it committed.

        Raises:
            GenerationError: ALREADY_EXISTS for an idempotency key that stands for another request; RATE_LIMITED and
                QUOTA_EXCEEDED where the key's quota is used up; what `Database.transaction` raises.
        """
        try:
            answer = await self._writer.write(request)
            if isinstance(answer, Undecided):
                await asyncio.sleep(_NEWS_SECONDS)
                answer = await self._writer.write(_waited(request))
        except asyncio.CancelledError:
            if request.client_call is not None:
                request.client_call.leaving.has_left = True
            raise
        return _noted(request, answer)

    async def rerun(self, request: NewRequest, *, accepted_usd: float | None) -> Accepted:
        """Commit a rerun. Raises as `accept` and as `IntakeStore.rerun` do."""
        answer = await self._store.rerun(request, accepted_usd=accepted_usd)
        self._wake_for_new([answer])
        return _noted(request, answer)

    async def close(self) -> None:
        """Commit what was handed in."""
        await self._writer.close()
        await self._wakeups.close()

    async def _commit(self, group: Sequence[NewRequest]) -> Sequence[Answer]:
        answers = await self._store.accept(group)
        reach(CrashPoint.GATEWAY_COMMITTED)
        self._wake_for_new(answers)
        await self._note_left(group, answers)
        return answers

    async def _note_left(self, group: Sequence[NewRequest], answers: Sequence[Answer]) -> None:
        """Record which clients have left meanwhile, so that their repeats take these generations."""
        for request, answer in zip(group, answers, strict=True):
            if isinstance(answer, Accepted) and request.client_call is not None:
                request.client_call.leaving.generation_id = answer.generation_id
        ends = [
            CallEnd(request.generation.owner, call.digest, answer.generation_id, "left_at")
            for request, answer in zip(group, answers, strict=True)
            if isinstance(answer, Accepted)
            and (call := request.client_call) is not None
            and _is_to_record(call.leaving)
        ]
        if not ends:
            return
        try:
            await self._store.note_ends(ends)
        except GenerationError:
            log.warning("the end of a call is not recorded", exc_info=True)

    def _wake_for_new(self, answers: Sequence[Answer]) -> None:
        self.wake(
            [
                answer.generation_id
                for answer in answers
                if isinstance(answer, Accepted) and answer.state is State.PENDING and not answer.is_repeat
            ]
        )

    def wake(self, generation_ids: list[str]) -> None:
        """Tell the dispatcher that these are committed."""
        for generation_id in generation_ids:
            self._wakeups.note(generation_id)


def _is_to_record(leaving: Leaving) -> bool:
    return leaving.has_left and not leaving.is_recorded


def _waited(request: NewRequest) -> NewRequest:
    call = request.client_call
    return replace(request, client_call=call and replace(call, has_waited=True))


def _noted(request: NewRequest, answer: Answer) -> Accepted:
    """Count and log a ticket. Raises the error that was answered instead."""
    if isinstance(answer, GenerationError):
        raise answer
    generation = request.generation
    if answer.is_repeat:
        metrics.REPEATS.labels("client_retry" if request.client_call else "idempotency").inc()
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
        experiment_id=generation.experiment_id,
        variant_id=generation.variant_id,
        is_repeat=answer.is_repeat or None,
        reused_from_id=answer.reused_from_id,
        rerun_of_id=generation.rerun_of_id,
    )
    return answer
