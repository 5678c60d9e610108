"""Claims due tasks in bulk, checks each, and writes what was found in groups."""

from __future__ import annotations

from collections import Counter
from functools import partial
from time import perf_counter

import structlog

from libs.common import metrics
from libs.common.adapters.accounts import Accounts
from libs.common.adapters.base import Task, TaskStatus
from libs.common.catalog import CatalogHolder, Model, Provider
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records import ClaimedTask, PollOutcome
from libs.common.database.states import TERMINAL, State
from libs.common.database.stores.polling import PollStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.loops import Loop
from libs.common.retry import until_database_answers
from libs.common.rpc.context import follow
from libs.common.settings import Settings
from services.poller.decisions import after_check, after_failed_check, unwritable
from services.poller.holding import Holding

log = structlog.get_logger()
_FORGOTTEN = "forgotten"
_FORGOTTEN_PLACES = 10


class Polling(Holding[PollOutcome]):
    """The tasks that this process holds."""

    def __init__(self, store: PollStore, catalog: CatalogHolder, accounts: Accounts, settings: Settings) -> None:
        super().__init__("poll_outcomes", store, store.end, drain_seconds=settings.drain_seconds)
        self._store = store
        self._catalog = catalog
        self._accounts = accounts
        self._warned: set[tuple[str, str]] = set()
        self.storing_loop: Loop | None = None

    async def claim(self) -> bool:
        """Claim for every provider account what there is room for."""
        rooms = {
            provider.id: self.window.room(provider.id, provider.limits.concurrent_checks)
            for provider in self._catalog.current.providers.values()
        }
        slots = {provider_id: room for provider_id, room in rooms.items() if room}
        if not slots:
            return False
        claimed = await self._store.claim(slots)
        if claimed:
            reach(CrashPoint.POLLER_TASK_CLAIMED)
        metrics.CLAIMED.labels("task").inc(len(claimed))
        counts = Counter(task.provider_id for task in claimed)
        for provider_id, room in slots.items():
            self.window.claimed(provider_id, counts[provider_id], room)
        for task in claimed:
            metrics.POLL_LATENESS_SECONDS.observe(max(0.0, task.lateness_seconds))
            self.window.begin(task.provider_id, partial(self._poll, task), partial(self._end, task))
        return False

    async def end_forgotten(self) -> bool:
        """End tasks past their deadline whose provider the catalog does not have any more."""
        room = self.window.room(_FORGOTTEN, _FORGOTTEN_PLACES)
        if not room:
            return False
        found = await self._store.claim_forgotten(room, known=list(self._catalog.current.providers))
        for task in found:
            self.window.begin(_FORGOTTEN, partial(self._poll, task), partial(self._end, task))
        return len(found) == room

    async def _poll(self, task: ClaimedTask) -> PollOutcome:
        follow(task.request_id, task.generation_id)
        catalog = self._catalog.current
        provider, model = catalog.providers.get(task.provider_id), catalog.models.get(task.model_identifier)
        try:
            if provider is None:
                raise GenerationError(ErrorCode.INTERNAL_ERROR, "The catalog has dropped the provider.")
            status = await self._check(task, provider, model)
            return after_check(task, status, provider, model)
        except GenerationError as error:
            log.warning("check failed", error=error, provider=task.provider_id, provider_task_id=task.task_id)
            return after_failed_check(task, error)

    async def _end(self, task: ClaimedTask, outcome: PollOutcome) -> None:
        reach(CrashPoint.POLLER_TASK_CHECKED)
        try:
            written = await until_database_answers(lambda: self._outcomes.write(outcome))
        except Exception as error:
            log.exception("outcome cannot be written", provider_task_id=task.task_id)
            outcome = unwritable(task, error)
            written = await until_database_answers(lambda: self._outcomes.write(outcome))
        if not written:
            metrics.FENCED_WRITES.labels("poll").inc()
            return
        if outcome.generation_state is not None:
            reach(CrashPoint.POLLER_OUTCOME_WRITTEN)
            self._tell(task, outcome, outcome.generation_state)

    async def _check(self, task: ClaimedTask, provider: Provider, model: Model | None) -> TaskStatus:
        started = perf_counter()
        label = "failure"
        try:
            asked = Task(task.task_id, model.upstream_model if model else "", task.check_url, task.age_seconds)
            status = await self._accounts.adapter(provider).check_task(asked)
            label = "success"
        except GenerationError:
            raise
        except Exception as error:
            log.exception("adapter failed", adapter=task.adapter_name)
            raise GenerationError(ErrorCode.INTERNAL_ERROR, f"The adapter failed: {type(error).__name__}.") from error
        finally:
            metrics.POLLS.labels(provider.id, label).inc()
            metrics.ADAPTER_CALL_SECONDS.labels(provider.id, "check", label).observe(perf_counter() - started)
        if status.unknown_state is not None:
            self._note_unknown_state(provider, status.unknown_state)
        return status

    def _note_unknown_state(self, provider: Provider, word: str) -> None:
        metrics.ADAPTER_UNKNOWN_STATES.labels(provider.id).inc()
        if (provider.id, word) not in self._warned and len(self._warned) < 1_000:
            self._warned.add((provider.id, word))
            log.warning("unknown state counts as processing", provider=provider.id, provider_state=word)

    def _tell(self, task: ClaimedTask, outcome: PollOutcome, state: State) -> None:
        code = outcome.error["code"] if outcome.error else ""
        if state in TERMINAL:
            metrics.count_end(task.model_identifier, task.provider_id, state, code, task.generation_age_seconds)
        elif self.storing_loop is not None:
            self.storing_loop.wake()
        log.info(
            "task ended",
            state=state.value,
            provider=task.provider_id,
            provider_task_id=task.task_id,
            code=code or None,
            polls=task.attempts + 1,
        )
