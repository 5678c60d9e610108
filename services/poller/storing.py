"""Stores results, with claims and places apart from those of polls, so that a slow download delays no poll."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from time import monotonic

import structlog

from libs.common import metrics, tracing
from libs.common.catalog import CatalogHolder, Provider
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records import Json
from libs.common.database.records_tasks import ClaimedResult, StoreOutcome
from libs.common.database.states import State
from libs.common.database.stores.storing import ResultStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.logging import described, level_of_end
from libs.common.retry import until_database_answers
from libs.common.rpc.context import follow
from libs.common.rpc.wakeups import Wakeups
from libs.common.settings import Settings
from libs.common.storage.download import no_headers
from libs.common.storage.results import Place, Results
from services.poller.asking import Asking
from services.poller.decisions import ready_of
from services.poller.holding import Holding
from services.poller.store_decisions import after_try, is_last_try, with_fresh

log = structlog.get_logger()
_LANE = "storing"
# So often is a file fetched that its own format calls cut off. It may be all there is, and was paid for.
_WHOLE_FILE_TRIES = 6
# Client errors that say nothing about the URL.
_NOT_OF_THE_URL = frozenset({408, 425, 429})


class Storing(Holding[StoreOutcome, bool]):
    """The results that this process holds."""

    def __init__(
        self,
        store: ResultStore,
        catalog: CatalogHolder,
        asking: Asking,
        results: Results,
        settings: Settings,
        *,
        batches: Wakeups[str],
    ) -> None:
        super().__init__("store_outcomes", store, store.end, settings)
        self._store = store
        self._asking = asking
        self._catalog = catalog
        self._results = results
        self._batches = batches

    async def claim(self) -> bool:
        """Claim as many results as there is room for; nothing while outcomes wait for the database."""
        room = self.window.room(_LANE, self._settings.store_concurrency)
        if not room or self._outcomes.is_waiting:
            return False
        claimed = await self._store.claim(room)
        if claimed:
            reach(CrashPoint.POLLER_RESULT_CLAIMED)
        metrics.CLAIMED.labels("result").inc(len(claimed))
        self.window.claimed(_LANE, len(claimed), room)
        for result in claimed:
            self.window.begin(
                _LANE, result.claim, partial(self._process, result), partial(self._end, result, monotonic())
            )
        return False

    async def _process(self, result: ClaimedResult) -> StoreOutcome:
        follow(result.request_id, result.id)
        with tracing.resumed("store", result.trace_parent, result.id):
            return await self._stored(result)

    async def _stored(self, result: ClaimedResult) -> StoreOutcome:
        provider = self._catalog.current.providers.get(result.provider_id)
        outputs = await asyncio.gather(*(self._tried(result, provider, index) for index in range(len(result.sources))))
        outcome = after_try(result, outputs, provider)
        failed = {index: output for index, output in enumerate(outputs) if isinstance(output, GenerationError)}
        if not failed:
            return outcome
        event = "outputs missing in the result" if outcome.state is State.SUCCESS else "result not stored"
        log.warning(
            event,
            error=next(iter(failed.values())),
            failed=sorted(failed),
            outputs=len(outputs),
            provider=result.provider_id,
            attempt=result.store_attempts,
        )
        metrics.RETRIES.labels(result.provider_id, "store").inc()
        if provider is None or outcome.state is not State.STORING:
            return outcome
        fresh = await self._fresh_sources(result, list(failed.values()), provider)
        merged = with_fresh(outcome.sources or result.sources, fresh)
        return replace(outcome, sources=merged) if merged else outcome

    async def _tried(self, result: ClaimedResult, provider: Provider | None, index: int) -> Json | GenerationError:
        """An output as the row keeps it once it is stored, or why it is not."""
        source = result.sources[index]
        if "stored" in source:
            stored: Json = source["stored"]
            return stored
        try:
            if provider is None:
                raise GenerationError(
                    ErrorCode.INTERNAL_ERROR, "The catalog has dropped the provider.", is_retryable=True
                )
            return await self._store_one(result, provider, index, source)
        except GenerationError as error:
            return error

    async def _fresh_sources(
        self, result: ClaimedResult, errors: Sequence[GenerationError], provider: Provider
    ) -> list[Json]:
        """The URLs of the outputs from a new check of the task, if their host says that the old ones have expired.

        Empty if there are no new ones. There is one check for each failed attempt, and the waits between attempts grow.
        """
        task = result.task
        if task is None or result.needs_credentials or not any(_is_of_the_url(error) for error in errors):
            return []
        model = self._catalog.current.models.get(result.model_identifier)
        try:
            status = await self._asking.check(task, provider, model, None)
        except GenerationError as failure:
            log.info("result has no fresh URLs", error=failure, provider=result.provider_id)
            return []
        return ready_of(task, status, provider, model).sources or []

    async def _end(self, result: ClaimedResult, claimed_at: float, outcome: StoreOutcome) -> None:
        reach(CrashPoint.POLLER_RESULT_STORED)
        if not await self._written(outcome):
            metrics.FENCED_WRITES.labels("store").inc()
            await self._drop_if_cancelled(result, outcome)
            return
        reach(CrashPoint.POLLER_GENERATION_ENDED)
        if outcome.state is State.SUCCESS:
            seconds = result.waiting_seconds + monotonic() - claimed_at
            metrics.READY_TO_STORED_SECONDS.labels(result.provider_id).observe(seconds)
        self._report_end(result, outcome)

    async def _written(self, outcome: StoreOutcome) -> bool:
        """Write an outcome; whether it was written.

        Stored files are the result, whoever holds the lease now: their URL may be valid for one read.
        """
        if await self._outcomes.write(outcome):
            return True
        if outcome.state is not State.SUCCESS:
            return False
        token = await until_database_answers(lambda: self._store.take(outcome.generation_id))
        return token is not None and await self._outcomes.write(replace(outcome, lease_token=token))

    async def _drop_if_cancelled(self, result: ClaimedResult, outcome: StoreOutcome) -> None:
        """Remove the files of a cancelled result. After a lost lease alone another poller uses the same keys."""
        stored = outcome.outputs or [source["stored"] for source in outcome.sources or () if "stored" in source]
        if not stored:
            return
        if await until_database_answers(lambda: self._store.is_cancelled(result.id)):
            metrics.LATE_RESULTS.labels("store").inc()
            await self._results.discard(stored)

    async def _store_one(self, result: ClaimedResult, provider: Provider, index: int, source: Json) -> Json:
        place = Place(result.id, result.created_at, index)
        if "url" in source:
            headers_for = (
                self._asking.adapter(provider).http.headers_for if "needs_credentials" in source else no_headers
            )
            return await self._results.store_url(
                source["url"],
                result.media_type,
                provider,
                place,
                headers_for=headers_for,
                takes_any=is_last_try(result, provider),
                takes_cut_off=result.store_attempts >= _WHOLE_FILE_TRIES or is_last_try(result, provider),
            )
        content = await self._store.spooled(result.id, source["spooled"])
        if content is None:
            raise GenerationError(ErrorCode.INTERNAL_ERROR, "The output is not in the database any more.")
        return await self._results.store_bytes(content, result.media_type, provider, place)

    def _report_end(self, result: ClaimedResult, outcome: StoreOutcome) -> None:
        if outcome.state is State.STORING:
            return
        if result.batch_id is not None:
            self._batches.note(result.batch_id)
        code = outcome.error["code"] if outcome.error else ""
        seconds = (datetime.now(UTC) - result.released_at).total_seconds()
        metrics.count_end(result.model_identifier, result.provider_id, outcome.state, code, seconds)
        if result.cost_usd:
            metrics.Spend.count(result.model_identifier, result.provider_id, result.labels, result.cost_usd)
        log.log(
            level_of_end(outcome.state, code),
            "generation ended",
            state=outcome.state.value,
            model=result.model_identifier,
            code=code or None,
            provider=result.provider_id,
            duration_seconds=round(seconds, 2),
            error=described(outcome.error),
        )


def _is_of_the_url(error: GenerationError) -> bool:
    """Whether the URL may have expired: the host refuses it in any way, or answers with no media."""
    status = error.details.get("http_status")
    is_refused = isinstance(status, int) and 400 <= status < 500 and status not in _NOT_OF_THE_URL
    return is_refused or "head" in error.details
