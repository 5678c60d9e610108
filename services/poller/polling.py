"""Claims due tasks in bulk, checks each, and writes what was found in groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

import structlog

from libs.common import metrics, tracing
from libs.common.adapters.base import TaskStatus
from libs.common.catalog import CatalogHolder, Provider
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records import ClaimedTask, PollOutcome
from libs.common.database.states import TERMINAL, State
from libs.common.database.stores.polling import PollStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.logging import described, level_of_end
from libs.common.loops import Loop
from libs.common.retry import until_database_answers
from libs.common.rpc.context import follow
from libs.common.rpc.nudges import Nudges
from libs.common.settings import Settings
from services.poller.asking import Asking, as_asked
from services.poller.decisions import after_check, after_failed_check, cancelled, timed_out, unwritable
from services.poller.holding import Holding
from services.poller.listing import FEWEST, Listing

log = structlog.get_logger()
_FORGOTTEN = "forgotten"
_FORGOTTEN_PLACES = 10


class Polling(Holding[PollOutcome, State | None]):
    """The tasks that this process holds."""

    def __init__(
        self, store: PollStore, catalog: CatalogHolder, asking: Asking, settings: Settings, *, batches: Nudges
    ) -> None:
        super().__init__("poll_outcomes", store, store.end, drain_seconds=settings.drain_seconds)
        self._store = store
        self._catalog = catalog
        self._asking = asking
        self._batches = batches
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
        listings = self._listings(claimed)
        for task in claimed:
            metrics.POLL_LATENESS_SECONDS.labels(task.provider_id).observe(max(0.0, task.lateness_seconds))
            self._begin(task.provider_id, task, listings.get(task.provider_id))
        return False

    async def end_forgotten(self) -> bool:
        """End tasks past their deadline whose provider the catalog does not have any more."""
        room = self.window.room(_FORGOTTEN, _FORGOTTEN_PLACES)
        if not room:
            return False
        found = await self._store.claim_forgotten(room, known=list(self._catalog.current.providers))
        for task in found:
            self._begin(_FORGOTTEN, task, None)
        return len(found) == room

    async def report(self, provider_id: str, task_id: str, status: TaskStatus) -> bool:
        """Take a provider's own word that a task has ended. False where it had ended already, or was cancelled."""
        if self.window.is_draining:
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "This poller is about to stop.")
        task = await self._store.take(provider_id, task_id)
        provider = self._catalog.current.providers.get(provider_id)
        if task is None or provider is None:
            return False
        follow(task.request_id, task.generation_id)
        if task.is_cancel_requested:
            metrics.LATE_RESULTS.labels("webhook").inc()
            outcome = cancelled(task, was_told=True)
        else:
            model = self._catalog.current.models.get(task.model_identifier)
            outcome = after_check(task, status, provider, model)
        return await self._end(task, outcome) and not task.is_cancel_requested

    def _begin(self, lane: str, task: ClaimedTask, listing: Listing | None) -> None:
        self.window.begin(lane, task.generation_id, partial(self._poll, task, listing), partial(self._end, task))

    def _listings(self, claimed: Sequence[ClaimedTask]) -> dict[str, Listing]:
        """By provider account, one list call for all of its tasks where that is worth it."""
        catalog = self._catalog.current
        by_provider: defaultdict[str, list[ClaimedTask]] = defaultdict(list)
        for task in claimed:
            by_provider[task.provider_id].append(task)
        found = {}
        for provider_id, tasks in by_provider.items():
            try:
                adapter = self._asking.adapter(catalog.providers[provider_id])
            except (KeyError, GenerationError):
                # Each task says so for itself.
                continue
            if adapter.can_list and len(tasks) >= FEWEST:
                models = catalog.models
                asked = [as_asked(task, models.get(task.model_identifier)) for task in tasks]
                found[provider_id] = Listing(adapter, asked)
        return found

    async def _poll(self, task: ClaimedTask, listing: Listing | None) -> PollOutcome:
        follow(task.request_id, task.generation_id)
        with tracing.resumed("poll", task.trace_parent, task.generation_id):
            return await self._polled(task, listing)

    async def _polled(self, task: ClaimedTask, listing: Listing | None) -> PollOutcome:
        catalog = self._catalog.current
        provider, model = catalog.providers.get(task.provider_id), catalog.models.get(task.model_identifier)
        failure = None
        try:
            if provider is None:
                raise GenerationError(ErrorCode.INTERNAL_ERROR, "The catalog has dropped the provider.")
            if task.is_cancel_requested:
                return cancelled(task, was_told=await self._asking.cancel(task, provider, model))
            status = await self._asking.check(task, provider, model, listing)
            outcome = after_check(task, status, provider, model)
        except GenerationError as error:
            metrics.RETRIES.labels(task.provider_id, "check").inc()
            log.warning("check failed", error=error, provider=task.provider_id, provider_task_id=task.task_id)
            failure = error
            outcome = after_failed_check(task, error, model)
        if outcome.has_ended or task.seconds_left > 0:
            return outcome
        return await self._give_up(task, provider, failure)

    async def _give_up(
        self, task: ClaimedTask, provider: Provider | None, failure: GenerationError | None
    ) -> PollOutcome:
        """Past its deadline, after a last look: the provider is told to stop, so that it bills no more than it has."""
        model = self._catalog.current.models.get(task.model_identifier)
        was_told = provider is not None and await self._asking.cancel(task, provider, model)
        return timed_out(task, failure, was_told=was_told)

    async def _end(self, task: ClaimedTask, outcome: PollOutcome) -> bool:
        reach(CrashPoint.POLLER_TASK_CHECKED)
        try:
            written = await until_database_answers(lambda: self._outcomes.write(outcome))
        except Exception as error:
            log.exception("outcome cannot be written", provider_task_id=task.task_id)
            outcome = unwritable(task, error)
            written = await until_database_answers(lambda: self._outcomes.write(outcome))
        if written is None:
            metrics.FENCED_WRITES.labels("poll").inc()
        elif written is not State.PROCESSING:
            reach(CrashPoint.POLLER_OUTCOME_WRITTEN)
            self._tell(task, outcome, written)
        return written is not None

    def _tell(self, task: ClaimedTask, outcome: PollOutcome, state: State) -> None:
        code = outcome.error["code"] if outcome.error else ""
        if state is State.CANCELLED and outcome.generation_state is not state:
            metrics.LATE_RESULTS.labels("check").inc()
            code = ErrorCode.TASK_CANCELLED.value
        if state in TERMINAL:
            metrics.count_end(task.model_identifier, task.provider_id, state, code, task.generation_age_seconds)
            if task.batch_id is not None:
                self._batches.note(task.batch_id)
            if state is State.SUCCESS:
                metrics.Spend.count(task.model_identifier, task.provider_id, task.labels, outcome.cost_usd or 0.0)
        elif self.storing_loop is not None:
            self.storing_loop.wake()
        log.log(
            level_of_end(state, code),
            "task ended",
            state=state.value,
            model=task.model_identifier,
            provider=task.provider_id,
            provider_task_id=task.task_id,
            code=code or None,
            polls=task.attempts + 1,
            error=described(outcome.error),
        )
