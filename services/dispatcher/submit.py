"""Processes one claimed generation: records the attempt, submits the request, and records the outcome."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from time import monotonic, perf_counter

import structlog

from libs.common import metrics, tracing
from libs.common.adapters.base import Completed, SubmitRequest, Submitted
from libs.common.adapters.http import last_reply, may_leave
from libs.common.coalesce import GroupWriter
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records_dispatch import Attempt, ClaimedGeneration, DispatchOutcome, NewTask
from libs.common.database.states import TERMINAL, State
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.database.stores.late_replies import LateReplyStore
from libs.common.errors import ErrorCode, GenerationError, NotAccepted, NotFound, NotSent
from libs.common.logging import described, level_of_end
from libs.common.retry import until_database_answers
from libs.common.rpc.context import follow
from libs.common.rpc.wakeups import HandedOver, Wakeups
from libs.common.storage.results import Results
from services.dispatcher import outcomes
from services.dispatcher.circuits import Circuits
from services.dispatcher.completing import Completing
from services.dispatcher.inputs import InputImages
from services.dispatcher.leases import Leases
from services.dispatcher.lookups import Lookups
from services.dispatcher.outcomes import Job
from services.dispatcher.preparing import Preparation
from services.dispatcher.recording import Recording

log = structlog.get_logger()
_PHRASES = {
    State.PENDING: "generation put back",
    State.FAILED: "generation failed",
    State.CANCELLED: "generation cancelled",
}


class Submitter:
    """Submits claimed generations; concurrent ones share their commits.

    Args:
        store: takes attempts and outcomes.
        preparation: makes the vendor's request of a claimed generation.
        inputs, results: fetch input images, and store outputs that are bytes.
        wakeups, circuits: are notified of new tasks and of ended submits.
        leases: the leases of the claims.
        lookups: look for the tasks of submissions whose reply is lost.
        late_replies: keeps replies that come once their claim has ended.
    """

    def __init__(
        self,
        store: DispatchStore,
        preparation: Preparation,
        *,
        inputs: InputImages,
        results: Results,
        wakeups: Wakeups[HandedOver],
        circuits: Circuits,
        leases: Leases,
        lookups: Lookups,
        late_replies: LateReplyStore,
    ) -> None:
        self._late_replies = late_replies
        self._leases = leases
        self._lookups = lookups
        self._preparation = preparation
        self._circuits = circuits
        self._unsent: set[str] = set()
        self._inputs = inputs
        self._results = results
        self._completing = Completing(results)
        self._wakeups = wakeups
        self._attempts: GroupWriter[Attempt, bool] = GroupWriter("attempts", store.record_attempts, concurrency=2)
        self._recording = Recording(store.end)

    async def close(self) -> None:
        """Write what is under way."""
        await self._attempts.close()
        await self._recording.close()

    async def process(self, claimed: ClaimedGeneration) -> None:
        """Process a claimed generation until its outcome is recorded. Raises only for faults of this service."""
        follow(claimed.request_id, claimed.id)
        with tracing.resumed("submit", claimed.trace_parent, claimed.id):
            await self._process(claimed)

    async def _process(self, claimed: ClaimedGeneration) -> None:
        if claimed.is_cancel_requested and claimed.open_submission_id is None:
            await self.put_back(claimed)
            return
        try:
            job, request = self._preparation.prepare(claimed)
        except GenerationError as error:
            await self._refuse(claimed, error)
            return
        if claimed.open_submission_id is not None:
            await self._resolve_left_behind(job)
            return
        self._unsent.add(claimed.id)
        try:
            await self._submit(job, request)
        finally:
            self._unsent.discard(claimed.id)

    @property
    def is_waiting(self) -> bool:
        """Whether outcomes wait for the database to take them."""
        return self._recording.is_waiting

    def is_unsent(self, generation_id: str) -> bool:
        """Whether a generation that is being processed has no recorded attempt yet."""
        return generation_id in self._unsent

    async def put_back(self, claimed: ClaimedGeneration) -> None:
        """Give back a claimed generation that was not sent. Its row says whether it was cancelled."""
        await self._end(claimed, outcomes.put_back(claimed))

    async def _refuse(self, claimed: ClaimedGeneration, error: GenerationError) -> None:
        waits = isinstance(error, NotFound) and _age_seconds(claimed) < outcomes.PATIENCE_SECONDS
        if claimed.open_submission_id is None:
            await self._end(claimed, (outcomes.deferred if waits else outcomes.refused)(claimed, error))
        elif not waits:
            await self._end(claimed, outcomes.unresolvable(claimed, error))
        # Otherwise the attempt stays open: the lease expires, and the next holder of the row looks it up again.

    async def _submit(self, job: Job, request: SubmitRequest) -> None:
        claimed = job.claimed
        assert job.submission_id is not None
        try:
            images = await self._inputs.resolve(request.input_images, job)
            request = replace(request, input_images=images)
        except GenerationError as error:
            await self._end(claimed, outcomes.without_inputs(job, error))
            return
        self._unsent.discard(claimed.id)
        if not self._leases.is_held(claimed.claim):
            await self.put_back(claimed)
            return
        may_leave.set(self._leases.permit(claimed.claim))
        try:
            is_recorded = await self._attempts.write(Attempt(job.submission_id, claimed.id, claimed.lease_token))
        except GenerationError as error:
            await self._end(claimed, outcomes.not_sent(job, error))
            return
        if not is_recorded:
            # The lease was lost, or the generation was cancelled: nothing is sent.
            await self.put_back(claimed)
            return
        reach(CrashPoint.DISPATCHER_ATTEMPT_RECORDED)
        if claimed.attempts:
            metrics.RETRIES.labels(job.provider.id, "submit").inc()
        else:
            metrics.QUEUE_WAIT_SECONDS.labels(job.provider.id).observe(max(0.0, _age_seconds(claimed)))
        outcome = await self._send(replace(job, attempt=claimed.attempts + 1), request)
        if outcome is not None:
            await self._end(claimed, outcome)

    async def _send(self, job: Job, request: SubmitRequest) -> DispatchOutcome | None:
        """Send the request, and return the outcome. None: it is unknown, and the next holder of the row resolves it."""
        started, sent_at = perf_counter(), monotonic()
        with metrics.SUBMITS_UNDER_WAY.labels(job.provider.id).track_inprogress():
            answer, failure = await _asked(job, request)
        if isinstance(failure, NotSent):
            log.warning("lease ended before the request left", submission_id=job.submission_id)
            return outcomes.not_sent(job, failure)
        seconds = perf_counter() - started
        label = "success" if failure is None else "failure"
        metrics.count_call(job.provider.id, "submit", label, seconds)
        self._circuits.note(job.provider.id, failure, left_at=sent_at)
        job = job.after(seconds, last_reply.get())
        if isinstance(failure, NotAccepted):
            return outcomes.not_accepted(job, failure)
        if failure is not None:
            return await self._lookups.resolve(job, failure, sent_at=sent_at)
        assert answer is not None
        reach(CrashPoint.DISPATCHER_REPLY_RECEIVED)
        if isinstance(answer, Submitted):
            return outcomes.accepted(job, answer)
        return await self._completing.outcome(job, answer, last_reply.get())

    async def _resolve_left_behind(self, job: Job) -> None:
        cause = GenerationError(
            ErrorCode.INTERNAL_ERROR, "The dispatcher that sent the request ended before it recorded the reply."
        )
        # The request left within a lease's life from when its attempt was recorded, see `Leases.permit`.
        age_seconds = (job.claimed.open_submission_age_seconds or 0.0) - self._leases.lease_seconds
        # The attempt that a dispatcher of ours did not finish does not count: the request has one more.
        job = replace(job, attempt=job.attempt - 1)
        outcome = await self._lookups.resolve(job, cause, sent_at=monotonic() - max(0.0, age_seconds))
        if outcome is not None:
            await self._end(job.claimed, outcome)

    async def _end(self, claimed: ClaimedGeneration, outcome: DispatchOutcome) -> None:
        outcome, written = await self._recording.record(outcome)
        if written is None:
            metrics.FENCED_WRITES.labels("dispatch").inc()
            await self._keep_late(claimed, outcome)
            return
        reach(CrashPoint.DISPATCHER_OUTCOME_WRITTEN)
        if written is State.CANCELLED and outcome.state in {State.SUCCESS, State.STORING}:
            await self._drop(outcome)
        self._report_end(claimed, outcome, written)

    async def _keep_late(self, claimed: ClaimedGeneration, outcome: DispatchOutcome) -> None:
        """Keep what the provider has taken or made, though the claim ended before its reply was here."""
        kept = await until_database_answers(lambda: self._late_replies.keep(outcome))
        if kept is None:
            log.warning("lease lost, no generation holds the outcome", state=outcome.state, task=outcome.task)
            return
        log.warning("late reply kept", state=kept.state, kept_by=kept.generation_id, task=outcome.task)
        if kept.state in {State.PROCESSING, State.STORING}:
            self._wakeups.note(_handed_over(claimed, outcome.task))

    async def _drop(self, outcome: DispatchOutcome) -> None:
        """Remove the files of a result that arrived after the cancel."""
        metrics.LATE_RESULTS.labels("submit").inc()
        await self._results.discard(outcome.outputs or [])

    def _report_end(self, claimed: ClaimedGeneration, outcome: DispatchOutcome, state: State) -> None:
        code = outcome.error["code"] if outcome.error else ""
        if state is State.CANCELLED:
            code = ErrorCode.TASK_CANCELLED.value
        if state in TERMINAL:
            age_seconds = _age_seconds(claimed)
            metrics.count_end(claimed.model_identifier, claimed.provider_id, state, code, age_seconds)
        if state in TERMINAL and outcome.cost_usd:
            metrics.Spend.count(claimed.model_identifier, claimed.provider_id, claimed.labels, outcome.cost_usd)
        if outcome.fallback is not None and state is State.PENDING:
            metrics.FALLBACKS.labels(claimed.model_identifier, code).inc()
        if outcome.task is not None or state is State.STORING:
            self._wakeups.note(_handed_over(claimed, outcome.task))
        log.log(
            level_of_end(state, code),
            _PHRASES.get(state, "generation submitted"),
            state=state.value,
            model=claimed.model_identifier,
            provider=claimed.provider_id,
            provider_task_id=outcome.task.task_id if outcome.task else None,
            code=code or None,
            delay_seconds=round(outcome.delay_seconds, 2) or None,
            error=described(outcome.error),
        )


async def _asked(job: Job, request: SubmitRequest) -> tuple[Submitted | Completed | None, GenerationError | None]:
    """The provider's answer, or why there is none."""
    if not may_leave.get()():
        return None, NotSent()
    try:
        return await job.adapter.submit(request), None
    except GenerationError as error:
        return None, error
    except Exception as error:
        log.exception("adapter failed", adapter=job.adapter.name)
        return None, GenerationError(ErrorCode.INTERNAL_ERROR, f"The adapter failed: {type(error).__name__}.")


def _handed_over(claimed: ClaimedGeneration, task: NewTask | None) -> HandedOver:
    if task is None:
        return HandedOver(claimed.id, claimed.provider_id)
    return HandedOver(claimed.id, claimed.provider_id, task.task_id, task.adapter_name)


def _age_seconds(claimed: ClaimedGeneration) -> float:
    return (datetime.now(UTC) - claimed.released_at).total_seconds()
