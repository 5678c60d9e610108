"""Late checks of tasks that timed out or were cancelled, so that a paid result is stored."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import structlog

from libs.common import metrics
from libs.common.adapters.base import TaskStatus
from libs.common.catalog import CatalogHolder
from libs.common.database.records_tasks import LateTask
from libs.common.database.states import State, TaskState
from libs.common.database.stores.late_results import LateResult, LateStore
from libs.common.database.stores.pauses import PauseStore
from libs.common.errors import GenerationError, UnreadableReply
from libs.common.rpc.context import follow
from services.poller.asking import Asking
from services.poller.decisions import ready_of, refuses_credentials

log = structlog.get_logger()
_AT_ONCE = 2
"""Late checks of one provider account at once."""


class LateChecks:
    """Checks tasks that have ended here, and accepts late reports of providers.

    Args:
        store: reads and writes of late checks.
        pauses: pauses of accounts that refuse our credentials.
        catalog: the accounts and models.
        asking: calls providers.
        stores_results: wakes the loop that stores results.
    """

    def __init__(
        self,
        store: LateStore,
        pauses: PauseStore,
        catalog: CatalogHolder,
        asking: Asking,
        *,
        stores_results: Callable[[], None],
    ) -> None:
        self._store = store
        self._pauses = pauses
        self._catalog = catalog
        self._asking = asking
        self._stores_results = stores_results

    async def check(self) -> bool:
        """Check the tasks that are due, a few of each account. One iteration of a loop.

        A check that raises is logged and does not affect the others; its task was given the time of its next check.
        """
        slots = dict.fromkeys(self._catalog.current.providers, _AT_ONCE)
        claimed = await self._store.claim(slots) if slots else []
        ended = await asyncio.gather(*(self._checked(task) for task in claimed), return_exceptions=True)
        for task, error in zip(claimed, ended, strict=True):
            if isinstance(error, Exception):
                log.error(
                    "late check failed",
                    generation_id=task.generation_id,
                    provider=task.provider_id,
                    provider_task_id=task.task_id,
                    exc_info=error,
                )
        return False

    async def report(self, provider_id: str, task_id: str, status: TaskStatus | None) -> bool:
        """Record a provider's report of a task that has ended here. Without a status the task is checked soon.

        Returns whether the report has changed anything.
        """
        is_success = status is not None and status.state is TaskState.SUCCESS
        task = await self._store.get(provider_id, task_id, is_success=is_success)
        if task is None:
            return False
        if status is None:
            return await self._store.wake(provider_id, task_id)
        return await self._record(task, status, "webhook")

    async def _checked(self, task: LateTask) -> None:
        follow(task.request_id, task.generation_id)
        catalog = self._catalog.current
        provider, model = catalog.providers.get(task.provider_id), catalog.models.get(task.model_identifier)
        if provider is None:
            return
        try:
            await self._record(task, await self._asking.check(task, provider, model, None), "check")
        except UnreadableReply as error:
            await self._store.note_unread(task, json.dumps(error.reply))
        except GenerationError as error:
            log.info("late check failed", error=error, provider=task.provider_id, provider_task_id=task.task_id)
            if refuses_credentials(error):
                await self._pauses.pause([task.provider_id])

    async def _record(self, task: LateTask, status: TaskStatus, source: str) -> bool:
        result = self._result(task, status)
        if result is None:
            return False
        continued_by = await self._store.record(task, result)
        if continued_by is None:
            if result.state is not State.FAILED:
                metrics.LATE_RESULTS.labels(source).inc()
            return False
        log.info(
            "late result found",
            provider=task.provider_id,
            provider_task_id=task.task_id,
            continued_by=continued_by,
            source=source,
        )
        if result.state is State.STORING:
            self._stores_results()
        return True

    def _result(self, task: LateTask, status: TaskStatus) -> LateResult | None:
        """The result of the task. None while the task runs, and for a success without outputs."""
        catalog = self._catalog.current
        provider, model = catalog.providers.get(task.provider_id), catalog.models.get(task.model_identifier)
        if status.state in {TaskState.FAILED, TaskState.CANCELLED}:
            return LateResult(State.FAILED)
        if status.state is not TaskState.SUCCESS or provider is None:
            return None
        ready = ready_of(task, status, provider, model)
        if not (ready.sources or ready.outputs):
            return None
        return LateResult(ready.state, sources=ready.sources, outputs=ready.outputs, cost_usd=ready.cost_usd)
