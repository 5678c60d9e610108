"""Records what became of claimed generations: the outcome itself, or as much of it as the database accepts."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import structlog

from libs.common.coalesce import GroupWriter
from libs.common.database.records_dispatch import DispatchOutcome
from libs.common.database.states import State
from libs.common.errors import ErrorCode, GenerationError, StatementEnded
from libs.common.outcome_writer import OutcomeWriter
from services.dispatcher import outcomes

log = structlog.get_logger()
Recorded = tuple[DispatchOutcome, State | None]
"""The outcome as it was written, and the generation's state then. None: the lease was lost, and nothing was written."""


class Recording:
    """Records outcomes; concurrent ones share their commits.

    Args:
        end: writes outcomes, and returns for each, in the order given, the generation's state or None.
    """

    def __init__(self, end: Callable[[Sequence[DispatchOutcome]], Awaitable[Sequence[State | None]]]) -> None:
        self._writer: OutcomeWriter[DispatchOutcome, State | None] = OutcomeWriter(
            GroupWriter("dispatch_outcomes", end, concurrency=2)
        )

    @property
    def is_waiting(self) -> bool:
        """Whether outcomes wait for the database to accept them."""
        return self._writer.is_waiting

    async def close(self) -> None:
        """Write the outcomes that were given, and accept no more."""
        await self._writer.close()

    async def record(self, outcome: DispatchOutcome) -> Recorded:
        """Record one outcome, and return once it is committed.

        An outcome that the database refuses is written without the vendor's own facts, and an outcome with a result is
        then repeated until the database accepts it or the lease is lost. Where its row is refused all the same, the
        generation fails, and the submission is uncertain if the provider may have accepted it.

        Raises StatementEnded where the database ends the statement of an outcome without a result again and again: its
        lease expires, and the next holder of the row resolves the submission.
        """
        try:
            return outcome, await self._writer.write(outcome)
        except StatementEnded:
            if not outcome.has_result:
                raise
            log.exception("outcome cannot be written", state=outcome.state)
        except Exception:
            log.exception("outcome cannot be written", state=outcome.state)
        return await self._record_reduced(outcomes.without_facts(outcome))

    async def _record_reduced(self, outcome: DispatchOutcome) -> Recorded:
        try:
            limit = {"refusals_limit": math.inf} if outcome.has_result else {}
            return outcome, await self._writer.write(outcome, **limit)
        except StatementEnded:
            raise
        except Exception as error:
            # The row does not accept it, for instance a task id that another generation has already.
            log.exception("outcome cannot be written", state=outcome.state, outputs=outcome.outputs)
            failed = outcomes.unwritable(outcome, _fault(outcome, error))
        return failed, await self._writer.write(failed)


def _fault(outcome: DispatchOutcome, error: Exception) -> GenerationError:
    return GenerationError(
        ErrorCode.INTERNAL_ERROR,
        "The provider's answer cannot be kept.",
        {"cause": type(error).__name__, "provider_task_id": outcome.task.task_id if outcome.task else None},
    )
