"""Carries one claimed generation: records the attempt, submits it, and writes what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import structlog

from libs.common import metrics, tracing
from libs.common.adapters.base import Completed, SubmitRequest, Submitted
from libs.common.adapters.http import last_reply
from libs.common.coalesce import GroupWriter
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records import Attempt, ClaimedGeneration, DispatchOutcome
from libs.common.database.states import TERMINAL, State
from libs.common.database.stores.dispatching import DispatchStore
from libs.common.errors import ErrorCode, GenerationError, NotAccepted, NotFound
from libs.common.logging import described, level_of_end
from libs.common.retry import repeat, until_database_answers
from libs.common.rpc.context import follow
from libs.common.storage.results import Place, Results
from services.dispatcher import outcomes
from services.dispatcher.circuits import Circuits
from services.dispatcher.inputs import InputImages
from services.dispatcher.outcomes import Job
from services.dispatcher.preparing import Preparation
from services.dispatcher.wakeups import Wakeups

log = structlog.get_logger()
_PHRASES = {
    State.PENDING: "generation put back",
    State.FAILED: "generation failed",
    State.CANCELLED: "generation cancelled",
}
_STORE_AT_ONCE_SECONDS = 30.0


class Submitter:
    """Submits claimed generations; concurrent ones share their commits.

    Args:
        store: takes attempts and outcomes.
        preparation: makes the vendor's request of a claimed generation.
        inputs, results: fetch input images, store outputs that come as bytes.
        wakeups, circuits: are told of what was handed over, and of how submits end.
    """

    def __init__(
        self,
        store: DispatchStore,
        preparation: Preparation,
        *,
        inputs: InputImages,
        results: Results,
        wakeups: Wakeups,
        circuits: Circuits,
    ) -> None:
        self._preparation = preparation
        self._circuits = circuits
        self._unsent: set[str] = set()
        self._inputs = inputs
        self._results = results
        self._wakeups = wakeups
        self._attempts: GroupWriter[Attempt, bool] = GroupWriter("attempts", store.record_attempts, concurrency=2)
        self._outcomes: GroupWriter[DispatchOutcome, State | None] = GroupWriter(
            "dispatch_outcomes", store.end, concurrency=2
        )

    async def close(self) -> None:
        """Write what is under way."""
        await self._attempts.close()
        await self._outcomes.close()

    async def carry(self, claimed: ClaimedGeneration) -> None:
        """From the claim to the outcome. Raises nothing but what a fault of our own raises."""
        follow(claimed.request_id, claimed.id)
        with tracing.resumed("submit", claimed.trace_parent, claimed.id):
            await self._carry(claimed)

    async def _carry(self, claimed: ClaimedGeneration) -> None:
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

    def is_unsent(self, generation_id: str) -> bool:
        """Whether a generation that is being carried has not come to its attempt yet."""
        return generation_id in self._unsent

    async def put_back(self, claimed: ClaimedGeneration) -> None:
        """End the claim of a generation that was not sent; its row knows whether it was cancelled."""
        await self._end(claimed, outcomes.put_back(claimed))

    async def _refuse(self, claimed: ClaimedGeneration, error: GenerationError) -> None:
        waits = isinstance(error, NotFound) and _age_seconds(claimed) < outcomes.PATIENCE_SECONDS
        if claimed.open_submission_id is None:
            await self._end(claimed, (outcomes.deferred if waits else outcomes.refused)(claimed, error))
        elif not waits:
            await self._end(claimed, outcomes.unresolvable(claimed, error))
        # Else its attempt stays open: the lease is left to end, and whoever claims the row then looks again.

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
        try:
            may_leave = await self._attempts.write(Attempt(job.submission_id, claimed.id, claimed.lease_token))
        except GenerationError as error:
            await self._end(claimed, outcomes.not_sent(job, error))
            return
        if not may_leave:
            # The lease was lost, or it was cancelled: in either case nothing is sent.
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
        """Send the request. None: nothing can be said yet, and the row's next holder resolves it."""
        started = perf_counter()
        with metrics.SUBMITS_UNDER_WAY.labels(job.provider.id).track_inprogress():
            answer, failure = await _asked(job, request)
        seconds = perf_counter() - started
        label = "success" if failure is None else "failure"
        metrics.count_call(job.provider.id, "submit", label, seconds)
        self._circuits.note(job.provider.id, failure)
        job = job.after(seconds, last_reply.get())
        if isinstance(failure, NotAccepted):
            return outcomes.not_accepted(job, failure)
        if failure is not None:
            return await self._resolve(job, failure)
        assert answer is not None
        reach(CrashPoint.DISPATCHER_REPLY_RECEIVED)
        return outcomes.accepted(job, answer) if isinstance(answer, Submitted) else await self._completed(job, answer)

    async def _completed(self, job: Job, answer: Completed) -> DispatchOutcome:
        """Bytes are stored at once, or wait in the database where storage is away; URLs are left to the poller."""
        cost_usd = answer.cost_usd
        if cost_usd is None:
            cost_usd = job.model.cost_usd(len(answer.outputs), job.claimed.parameters)
        media_type = job.model.media_type
        if any(output.content is None for output in answer.outputs):
            urls = [output.to_source(media_type) for output in answer.outputs if output.url]
            if not job.provider.storage.upload_to_s3:
                return outcomes.completed(job, urls, cost_usd)
            return outcomes.to_be_stored(job, urls, cost_usd)
        contents = tuple(output.content or b"" for output in answer.outputs)
        began = perf_counter()
        try:
            async with asyncio.timeout(_STORE_AT_ONCE_SECONDS):
                stored = await self._store(job, contents)
        except (GenerationError, TimeoutError) as error:
            if isinstance(error, GenerationError) and error.code is not ErrorCode.S3_UPLOAD_FAILED:
                return outcomes.unusable(job, error)
            log.warning("storage is away, the outputs wait in the database", error=error)
            spooled = [{"type": media_type, "spooled": index} for index in range(len(contents))]
            return outcomes.to_be_stored(job, spooled, cost_usd, spool=contents)
        metrics.READY_TO_STORED_SECONDS.labels(job.provider.id).observe(perf_counter() - began)
        reach(CrashPoint.DISPATCHER_OUTPUT_STORED)
        return outcomes.completed(job, stored, cost_usd)

    async def _store(self, job: Job, contents: tuple[bytes, ...]) -> list[dict[str, Any]]:
        claimed = job.claimed
        return await asyncio.gather(
            *(
                self._results.store_bytes(
                    content, job.model.media_type, job.provider, Place(claimed.id, claimed.created_at, index)
                )
                for index, content in enumerate(contents)
            )
        )

    async def _resolve_left_behind(self, job: Job) -> None:
        cause = GenerationError(
            ErrorCode.INTERNAL_ERROR, "The dispatcher that sent the request ended before it could keep the reply."
        )
        # What our own death cut short is not held against the request: it has one attempt more.
        outcome = await self._resolve(replace(job, attempt=job.attempt - 1), cause)
        if outcome is not None:
            await self._end(job.claimed, outcome)

    async def _resolve(self, job: Job, cause: GenerationError) -> DispatchOutcome | None:
        """The outcome of a submit whose reply is lost: ask the provider for our id where that works."""
        log.warning("submit is uncertain", error=cause, submission_id=job.submission_id)
        if not job.adapter.can_find_task:
            return outcomes.uncertain(job, cause)
        client_id = job.claimed.id if job.adapter.idempotent_submit else job.submission_id
        try:
            found = await repeat(job.provider.retry, lambda: job.adapter.find_task(client_id or ""))
        except GenerationError as error:
            # The lease is left to end: whoever claims the row then asks again.
            log.warning("provider cannot be asked about the submit yet", error=error)
            return None
        if found is None:
            return outcomes.not_accepted(job, NotAccepted(cause.code, cause.message, cause.details, is_retryable=True))
        return outcomes.accepted(job, found)

    async def _end(self, claimed: ClaimedGeneration, outcome: DispatchOutcome) -> None:
        try:
            written = await until_database_answers(lambda: self._outcomes.write(outcome))
        except Exception as error:
            # The row does not take it, for instance a task id that another generation has already.
            log.exception("outcome cannot be written", state=outcome.state)
            fault = GenerationError(
                ErrorCode.INTERNAL_ERROR,
                "The provider's answer cannot be kept.",
                {"cause": type(error).__name__, "provider_task_id": outcome.task.task_id if outcome.task else None},
            )
            outcome = replace(outcome, state=State.FAILED, task=None, sources=None, outputs=None, error=fault.to_json())
            written = await until_database_answers(lambda: self._outcomes.write(outcome))
        if written is None:
            metrics.FENCED_WRITES.labels("dispatch").inc()
            log.warning("lease lost, the outcome is dropped", state=outcome.state, task=outcome.task)
            return
        reach(CrashPoint.DISPATCHER_OUTCOME_WRITTEN)
        if written is State.CANCELLED and outcome.state in {State.SUCCESS, State.STORING}:
            await self._drop(outcome)
        self._tell(claimed, outcome, written)

    async def _drop(self, outcome: DispatchOutcome) -> None:
        """A result that came after the cancel: nobody will read it."""
        metrics.LATE_RESULTS.labels("submit").inc()
        await self._results.discard(outcome.outputs or [])

    def _tell(self, claimed: ClaimedGeneration, outcome: DispatchOutcome, state: State) -> None:
        code = outcome.error["code"] if outcome.error else ""
        if state is State.CANCELLED:
            code = ErrorCode.TASK_CANCELLED.value
        if state in TERMINAL:
            age_seconds = _age_seconds(claimed)
            metrics.count_end(claimed.model_identifier, claimed.provider_id, state, code, age_seconds)
        if state is State.SUCCESS:
            metrics.Spend.count(claimed.model_identifier, claimed.provider_id, claimed.labels, outcome.cost_usd or 0.0)
        if outcome.fallback is not None and state is State.PENDING:
            metrics.FALLBACKS.labels(claimed.model_identifier, code).inc()
        if outcome.task is not None or state is State.STORING:
            self._wakeups.note(claimed, outcome.task)
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
    try:
        return await job.adapter.submit(request), None
    except GenerationError as error:
        return None, error
    except Exception as error:
        log.exception("adapter failed", adapter=job.adapter.name)
        return None, GenerationError(ErrorCode.INTERNAL_ERROR, f"The adapter failed: {type(error).__name__}.")


def _age_seconds(claimed: ClaimedGeneration) -> float:
    return (datetime.now(UTC) - claimed.released_at).total_seconds()
