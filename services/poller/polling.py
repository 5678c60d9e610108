"""Claims due tasks in bulk, checks each task, and writes the outcomes in groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

import structlog

from libs.common import metrics, tracing
from libs.common.adapters.base import TaskStatus
from libs.common.adapters.http import last_reply
from libs.common.catalog import CatalogHolder, Model, Provider
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records_tasks import ClaimedTask, PollOutcome
from libs.common.database.states import TERMINAL, State
from libs.common.database.stores.polling import PollStore
from libs.common.errors import ErrorCode, GenerationError, StatementEnded
from libs.common.logging import described, level_of_end
from libs.common.loops import Loop
from libs.common.retry import until_database_answers
from libs.common.rpc.context import follow
from libs.common.rpc.wakeups import Wakeups
from libs.common.settings import Settings
from services.poller.asking import Asking, as_asked
from services.poller.decisions import (
    Pace,
    after_check,
    after_failed_check,
    cancelled,
    not_checked,
    refuses_credentials,
    timed_out,
    unwritable,
    with_reply,
)
from services.poller.holding import Holding
from services.poller.listing import FEWEST, Listing

log = structlog.get_logger()
_FORGOTTEN = "forgotten"
_RESULTS = frozenset({State.STORING, State.SUCCESS})
_FORGOTTEN_PLACES = 10


class Polling(Holding[PollOutcome, State | None]):
    """The tasks that this process holds."""

    def __init__(
        self, store: PollStore, catalog: CatalogHolder, asking: Asking, settings: Settings, *, batches: Wakeups[str]
    ) -> None:
        super().__init__("poll_outcomes", store, store.end, settings)
        self._store = store
        self._catalog = catalog
        self._asking = asking
        self._batches = batches
        self._pace = Pace(
            refused_seconds=settings.poll_probe_seconds,
            missing_seconds=settings.missing_poll_seconds,
            believed_seconds=settings.missing_believed_seconds,
        )
        # When each provider account last refused our credentials here, by the monotonic clock.
        self._refused_at: dict[str, float] = {}
        self.storing_loop: Loop | None = None

    async def claim(self) -> bool:
        """Claim for every provider account what there is room for; nothing while outcomes wait for the database."""
        if self._outcomes.is_waiting:
            return False
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
        if not room or self._outcomes.is_waiting:
            return False
        found = await self._store.claim_forgotten(room, known=list(self._catalog.current.providers))
        for task in found:
            self._begin(_FORGOTTEN, task, None)
        return len(found) == room

    async def report(self, provider_id: str, task_id: str, status: TaskStatus) -> bool:
        """Write a provider's report that a task has ended. False where it had ended already, or was cancelled.

        The report is written although its caller is cancelled. Raises GenerationError SERVICE_UNAVAILABLE at a stop.
        """
        if self.window.is_draining:
            raise GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "This poller is about to stop.")
        return await self.window.attend(self._report(provider_id, task_id, status))

    async def _report(self, provider_id: str, task_id: str, status: TaskStatus) -> bool:
        task = await self._store.take(provider_id, task_id)
        provider = self._catalog.current.providers.get(provider_id)
        if task is None or provider is None:
            return False
        follow(task.request_id, task.generation_id)
        model = self._catalog.current.models.get(task.model_identifier)
        if task.is_cancel_requested:
            metrics.LATE_RESULTS.labels("webhook").inc()
            outcome = cancelled(task, status, provider, model, is_confirmed=False)
        else:
            outcome = after_check(task, status, provider, model)
        with self.window.holding(task.claim):
            return await self._end(task, outcome) and not task.is_cancel_requested

    def _begin(self, lane: str, task: ClaimedTask, listing: Listing | None) -> None:
        poll = partial(self._poll, task, listing, monotonic())
        self.window.begin(lane, task.claim, poll, partial(self._end, task))

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
                # The check of each task fails with this error.
                continue
            if adapter.can_list and len(tasks) >= FEWEST:
                models = catalog.models
                asked = [as_asked(task, models.get(task.model_identifier)) for task in tasks]
                found[provider_id] = Listing(adapter, asked)
        return found

    async def _poll(self, task: ClaimedTask, listing: Listing | None, claimed_at: float) -> PollOutcome:
        follow(task.request_id, task.generation_id)
        with tracing.resumed("poll", task.trace_parent, task.generation_id):
            return await self._polled(task, listing, claimed_at)

    async def _polled(self, task: ClaimedTask, listing: Listing | None, claimed_at: float) -> PollOutcome:
        catalog = self._catalog.current
        provider, model = catalog.providers.get(task.provider_id), catalog.models.get(task.model_identifier)
        if provider is None or not task.may_call:
            return self._end_without_provider(task, provider, model)
        if self._refused_at.get(task.provider_id, -1.0) > claimed_at:
            return not_checked(task, self._pace)
        if task.is_cancel_requested:
            return await self._cancel(task, provider, model)
        failure = None
        try:
            status = await self._asking.check(task, provider, model, listing)
            outcome = with_reply(after_check(task, status, provider, model), last_reply.get())
        except GenerationError as error:
            metrics.RETRIES.labels(task.provider_id, "check").inc()
            log.warning("check failed", error=error, provider=task.provider_id, provider_task_id=task.task_id)
            if refuses_credentials(error):
                self._refused_at[task.provider_id] = monotonic()
            failure = error
            outcome = after_failed_check(task, error, model, self._pace)
        # A refusal stops the deadline.
        if outcome.has_ended or outcome.is_refused or task.seconds_left > 0:
            return outcome
        return await self._give_up(task, provider, model, failure)

    def _end_without_provider(self, task: ClaimedTask, provider: Provider | None, model: Model | None) -> PollOutcome:
        """End a task whose provider cannot be asked; one that is neither cancelled nor past its deadline waits."""
        if task.is_cancel_requested:
            return cancelled(task, None, provider, model, is_confirmed=False)
        if task.seconds_left > 0:
            return not_checked(task, self._pace)
        why = "The catalog has dropped the provider." if provider is None else "The provider refuses our credentials."
        return timed_out(task, GenerationError(ErrorCode.INTERNAL_ERROR, why), is_confirmed=False)

    async def _cancel(self, task: ClaimedTask, provider: Provider, model: Model | None) -> PollOutcome:
        """Cancel a task for its caller. A check shows whether it had succeeded before, since it is billed then."""
        is_confirmed = await self._asking.cancel(task, provider, model)
        status = None if is_confirmed else await self._look(task, provider, model)
        return cancelled(task, status, provider, model, is_confirmed=is_confirmed)

    async def _look(self, task: ClaimedTask, provider: Provider, model: Model | None) -> TaskStatus | None:
        try:
            return await self._asking.check(task, provider, model, None)
        except GenerationError as error:
            log.warning("check failed", error=error, provider=task.provider_id, provider_task_id=task.task_id)
            return None

    async def _give_up(
        self, task: ClaimedTask, provider: Provider, model: Model | None, failure: GenerationError | None
    ) -> PollOutcome:
        """End a task past its deadline, after a last check.

        A task that is not confirmed to be stopped may end with a result, which is stored as a late result.
        """
        is_confirmed = await self._asking.cancel(task, provider, model)
        return timed_out(task, failure, is_confirmed=is_confirmed)

    async def _end(self, task: ClaimedTask, outcome: PollOutcome) -> bool:
        reach(CrashPoint.POLLER_TASK_CHECKED)
        try:
            written = await self._outcomes.write(outcome)
        except StatementEnded:
            # The row is not the reason: its lease expires, and the task is checked again.
            raise
        except Exception as error:
            log.exception("outcome cannot be written", provider_task_id=task.task_id)
            outcome = unwritable(task, outcome, error, self._catalog.current.models.get(task.model_identifier))
            written = await self._outcomes.write(outcome)
        if written is None and outcome.generation_state in _RESULTS:
            written = await self._written_after_all(outcome)
        if written is None:
            metrics.FENCED_WRITES.labels("poll").inc()
        elif written is not State.PROCESSING:
            reach(CrashPoint.POLLER_OUTCOME_WRITTEN)
            self._report_end(task, outcome, written)
        return written is not None

    async def _written_after_all(self, outcome: PollOutcome) -> State | None:
        """Write a result under a new lease, whoever holds the lease now: the provider may report it only once."""
        taken = await until_database_answers(lambda: self._store.take(outcome.provider_id, outcome.task_id))
        if taken is None:
            return None
        return await self._outcomes.write(replace(outcome, lease_token=taken.lease_token))

    def _report_end(self, task: ClaimedTask, outcome: PollOutcome, state: State) -> None:
        code = outcome.error["code"] if outcome.error else ""
        if state is State.CANCELLED and outcome.generation_state is not state:
            metrics.LATE_RESULTS.labels("check").inc()
            code = ErrorCode.TASK_CANCELLED.value
        if state in TERMINAL:
            metrics.count_end(task.model_identifier, task.provider_id, state, code, task.generation_age_seconds)
            if task.batch_id is not None:
                self._batches.note(task.batch_id)
            if outcome.cost_usd:
                metrics.Spend.count(task.model_identifier, task.provider_id, task.labels, outcome.cost_usd)
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
