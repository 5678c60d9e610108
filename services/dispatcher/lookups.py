"""Looks up the tasks of submissions whose reply was lost, at vendors that support lookups by our own id.

A request that timed out here may still be queued at the vendor, so that its task appears later, and a lookup may be
answered by a replica that does not have the task yet. So "not found" is believed only if the vendor documents its
lookups as consistent, and only after two lookups some time apart found nothing, the later one long after the send.
Until then the lookup is repeated.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from time import monotonic, perf_counter

import structlog

from libs.common import metrics
from libs.common.adapters.base import Adapter, Submitted
from libs.common.database.records_dispatch import DispatchOutcome
from libs.common.database.states import State
from libs.common.errors import ErrorCode, GenerationError, NotAccepted
from libs.common.settings import Settings
from services.dispatcher import outcomes
from services.dispatcher.outcomes import Job

log = structlog.get_logger()
_CALLS_AT_ONCE = 8


class NoTask(Enum):
    """Why no task was found: there is none, the vendor does not answer, or this process stops first."""

    ABSENT = auto()
    UNKNOWN = auto()
    STOPPED = auto()


@dataclass(frozen=True, slots=True)
class Schedule:
    """When lookups are made, and when "not found" is believed. Times of the monotonic clock, in seconds.

    Args:
        absent_from: the earliest time of a lookup that can show that there is no task.
        apart_seconds: the least time between the two lookups that show it.
        interval_seconds: the time between two lookups.
        ends_at: when lookups end that the vendor does not answer.
    """

    absent_from: float
    apart_seconds: float
    interval_seconds: float
    ends_at: float

    @classmethod
    def of(cls, settings: Settings, job: Job, *, sent_at: float) -> Schedule:
        """The schedule for a request that left at `sent_at` or before."""
        absent_from = sent_at + job.provider.limits.submit_timeout_seconds + settings.lookup_margin_seconds
        return cls(
            absent_from=absent_from,
            apart_seconds=settings.lookup_apart_seconds,
            interval_seconds=settings.lookup_interval_seconds,
            ends_at=max(absent_from, monotonic()) + settings.lookup_limit_seconds,
        )

    def is_absent(self, first_at: float, last_at: float) -> bool:
        """Whether two lookups that found nothing show that there is nothing."""
        return last_at >= self.absent_from and last_at - first_at >= self.apart_seconds

    def wait_seconds(self, first_at: float | None, now: float) -> float:
        """How long to wait for the next lookup: the interval, or less if an earlier one can be the last."""
        decisive = self.absent_from if first_at is None else max(self.absent_from, first_at + self.apart_seconds)
        left = decisive - now
        return min(self.interval_seconds, left) if left > 0 else self.interval_seconds


class Lookups:
    """The submissions of one dispatcher whose tasks are being looked for.

    They hold their leases, and do not count as submits. An account with `lookups_per_account` of them submits nothing
    until there are fewer; other accounts are not affected.

    Args:
        settings: when lookups are made, and how many wait.
        adapter_of: the adapter for a job's account in the catalog now in force. Raises GenerationError.
    """

    def __init__(self, settings: Settings, adapter_of: Callable[[Job], Adapter]) -> None:
        self._settings = settings
        self._adapter_of = adapter_of
        self._waiting: dict[str, str] = {}
        self._calls: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_CALLS_AT_ONCE))
        self._stopping = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self, provider_id: str) -> int:
        """How many submissions of an account are being looked for."""
        return sum(1 for name in self._waiting.values() if name == provider_id)

    def is_full(self, provider_id: str) -> bool:
        """Whether the account has so many lookups that it should get no more submits."""
        return self.waiting(provider_id) >= self._settings.lookups_per_account

    def stop(self) -> None:
        """Stop the lookups. The next holder of each row continues them."""
        self._stopping.set()

    async def resolve(self, job: Job, cause: GenerationError, *, sent_at: float) -> DispatchOutcome | None:
        """The outcome of a submission whose reply is lost.

        Args:
            job: with the submission.
            cause: why the reply was lost.
            sent_at: no earlier than the request left, by the monotonic clock.

        Returns None if this process stops before the outcome is known.
        """
        log.warning("submit is uncertain", error=cause, submission_id=job.submission_id)
        unknown = outcomes.uncertain(job, cause)
        if not job.adapter.can_find_task:
            return unknown
        # A vendor that bills our id once gets the request again, without a wait.
        once = job.adapter.idempotent_submit and unknown.state is State.PENDING
        with self._counted(job):
            found, failure = await self._look(job, Schedule.of(self._settings, job, sent_at=sent_at), once=once)
        if isinstance(found, Submitted):
            return outcomes.accepted(job, found)
        if found is NoTask.STOPPED:
            return None
        if found is NoTask.ABSENT and job.adapter.lookups_are_consistent:
            error = NotAccepted(cause.code, cause.message, cause.details, is_retryable=True)
            return outcomes.not_accepted(job, error)
        return outcomes.with_failed_lookup(unknown, failure) if failure is not None else unknown

    async def _look(
        self, job: Job, schedule: Schedule, *, once: bool
    ) -> tuple[Submitted | NoTask, GenerationError | None]:
        """Repeat the lookup until it finds the task or shows that there is none.

        Args:
            job: with the submission.
            schedule: when lookups are made.
            once: make one lookup alone.

        Returns the task or why there is none, and the error of the last lookup that failed.
        """
        first_at: float | None = None
        failure: GenerationError | None = None
        while True:
            asked_at = monotonic()
            try:
                found = await self._ask(job)
            except GenerationError as error:
                failure = error
            else:
                if found is not None:
                    return found, failure
                first_at = asked_at if first_at is None else first_at
                if schedule.is_absent(first_at, asked_at):
                    return NoTask.ABSENT, failure
            if once or monotonic() >= schedule.ends_at:
                return NoTask.UNKNOWN, failure
            if await self._is_stopped_within(schedule.wait_seconds(first_at, monotonic())):
                return NoTask.STOPPED, failure

    async def _ask(self, job: Job) -> Submitted | None:
        """Make one lookup. Raises GenerationError where it fails: INTERNAL_ERROR for an exception of another type."""
        began = perf_counter()
        label = "failure"
        try:
            async with self._calls[job.provider.id]:
                found = await self._find(job)
            label = "success"
            return found
        except GenerationError as error:
            log.warning("lookup of the submission failed", error=error, submission_id=job.submission_id)
            raise
        finally:
            metrics.count_call(job.provider.id, "find", label, perf_counter() - began)

    async def _find(self, job: Job) -> Submitted | None:
        client_id = job.claimed.id if job.adapter.idempotent_submit else job.submission_id
        try:
            return await self._adapter_of(job).find_task(client_id or "")
        except GenerationError:
            raise
        except Exception as error:
            log.exception("adapter failed", adapter=job.adapter.name, submission_id=job.submission_id)
            raise GenerationError(
                ErrorCode.INTERNAL_ERROR, f"The adapter failed to look up the submission: {type(error).__name__}."
            ) from error

    async def _is_stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def _counted(self, job: Job) -> Iterator[None]:
        self._waiting[job.claimed.id] = job.provider.id
        try:
            with metrics.LOOKUPS_WAITING.labels(job.provider.id).track_inprogress():
                yield
        finally:
            del self._waiting[job.claimed.id]
