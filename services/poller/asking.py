"""Checks and cancels tasks at providers: each call timed and counted, each failure with a code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

import structlog

from libs.common import metrics
from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import Adapter, Task, TaskStatus
from libs.common.catalog import Model, Provider
from libs.common.database.records_tasks import ClaimedTask, LateTask
from libs.common.errors import ErrorCode, GenerationError
from libs.common.retry import repeat
from services.poller.listing import Listing

log = structlog.get_logger()
T = TypeVar("T")


def as_asked(task: ClaimedTask | LateTask, model: Model | None) -> Task:
    """A task as adapters take it."""
    return Task(task.task_id, model.upstream_model if model else "", task.check_url, task.age_seconds)


class Asking:
    """The poller's side of the adapters."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._warned: set[tuple[str, str]] = set()

    def adapter(self, provider: Provider) -> Adapter:
        """The account's adapter. GenerationError AUTHENTICATION_FAILED where its credentials are not set."""
        return self._accounts.adapter(provider)

    async def check(
        self, task: ClaimedTask | LateTask, provider: Provider, model: Model | None, listing: Listing | None
    ) -> TaskStatus:
        """Read a task's state from its provider. Raises GenerationError."""
        asked = as_asked(task, model)
        adapter = self.adapter(provider)
        call = listing.check if listing is not None else adapter.check_task
        status = await self._timed(provider, "check", lambda: call(asked))
        status = replace(status, outputs=adapter.absolute(status.outputs))
        if status.unknown_state is not None:
            self._note_unknown_state(provider, status.unknown_state)
        return status

    async def cancel(self, task: ClaimedTask, provider: Provider, model: Model | None) -> bool:
        """Ask the provider to stop a task, as often as the account's policy says.

        Returns whether the provider confirms that the task is stopped and will not be billed as finished.
        """
        try:
            adapter = self.adapter(provider)
            if not adapter.can_cancel:
                return False
            asked = as_asked(task, model)
            return await repeat(provider.retry, lambda: self._timed(provider, "cancel", lambda: adapter.cancel(asked)))
        except GenerationError as error:
            log.warning("provider does not take the cancel", error=error, provider_task_id=task.task_id)
            return False

    async def _timed(self, provider: Provider, call: str, ask: Callable[[], Awaitable[T]]) -> T:
        started = perf_counter()
        label = "failure"
        try:
            found = await ask()
            label = "success"
            return found
        except GenerationError:
            raise
        except Exception as error:
            log.exception("adapter failed", adapter=provider.adapter)
            raise GenerationError(ErrorCode.INTERNAL_ERROR, f"The adapter failed: {type(error).__name__}.") from error
        finally:
            if call == "check":
                metrics.POLLS.labels(provider.id, label).inc()
            metrics.count_call(provider.id, call, label, perf_counter() - started)

    def _note_unknown_state(self, provider: Provider, word: str) -> None:
        metrics.ADAPTER_UNKNOWN_STATES.labels(provider.id).inc()
        if (provider.id, word) not in self._warned and len(self._warned) < 1_000:
            self._warned.add((provider.id, word))
            log.warning("unknown state counts as processing", provider=provider.id, provider_state=word)
