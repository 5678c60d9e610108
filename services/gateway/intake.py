"""Group commit: concurrent requests share one INSERT, and a committed group one nudge to the dispatcher."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from darkroom.dispatcher.v1.dispatcher_pb2_grpc import DispatcherServiceStub

from libs.common import metrics
from libs.common.coalesce import GroupWriter
from libs.common.database.records_edge import Accepted, NewRequest
from libs.common.database.states import State
from libs.common.database.stores.intake import Answer, IntakeStore
from libs.common.errors import GenerationError
from libs.common.rpc.nudges import generation_nudges

log = structlog.get_logger()
# A call costs as much as taking in two generations, and a wait of this length nobody sees.
BETWEEN_NUDGES_SECONDS = 0.02
# What comes in while a group is on its way to the disk goes together.
_COMPANY_SECONDS = 0.003


class Intake:
    """Commits generations. Two groups may be under way, so that one gathers while others wait for the disk."""

    def __init__(self, store: IntakeStore, dispatcher: DispatcherServiceStub) -> None:
        self._store = store
        self._writer: GroupWriter[NewRequest, Answer] = GroupWriter(
            "intake", self._commit, concurrency=2, busy_linger_seconds=_COMPANY_SECONDS
        )
        self._nudges = generation_nudges(dispatcher, between_seconds=BETWEEN_NUDGES_SECONDS)

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
            experiment_id=generation.experiment_id,
            variant_id=generation.variant_id,
            is_repeat=answer.is_repeat or None,
            reused_from_id=answer.reused_from_id,
        )
        return answer

    async def close(self) -> None:
        """Commit what was handed in."""
        await self._writer.close()
        await self._nudges.close()

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
        """Tell the dispatcher that these are committed."""
        for generation_id in generation_ids:
            self._nudges.note(generation_id)
