"""Stores results: work of its own with its own claims and places, so that a slow download never delays a poll."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any

import structlog

from libs.common import metrics, tracing
from libs.common.adapters.accounts import Accounts
from libs.common.catalog import CatalogHolder, Provider, Retry
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records import ClaimedResult, StoreOutcome
from libs.common.database.states import State
from libs.common.database.stores.storing import ResultStore
from libs.common.errors import ErrorCode, GenerationError
from libs.common.logging import described, level_of_end
from libs.common.retry import until_database_answers, wait_seconds
from libs.common.rpc.context import follow
from libs.common.rpc.nudges import Nudges
from libs.common.settings import Settings
from libs.common.storage.download import no_headers
from libs.common.storage.results import Place, Results
from services.poller.holding import Holding

log = structlog.get_logger()
_LANE = "storing"
# The catalog that names the result's provider may come back for so long.
_FORGOTTEN_SECONDS = 3_600.0
_UNKNOWN_PROVIDERS_RETRY = Retry()


def after_failure(result: ClaimedResult, error: GenerationError, provider: Provider | None) -> StoreOutcome:
    """Try again while there is something to store: as long as the provider keeps it, or it waits in our database."""
    spooled = any("spooled" in source for source in result.sources)
    kept_seconds = provider.storage.result_seconds if provider else _FORGOTTEN_SECONDS
    alive = spooled or result.waiting_seconds < kept_seconds
    # A key that is missing or wrong can be mended while the result, which is paid for, still lies there.
    worthwhile = error.is_retryable or error.code is ErrorCode.AUTHENTICATION_FAILED
    if worthwhile and alive:
        policy = provider.retry if provider else _UNKNOWN_PROVIDERS_RETRY
        delay = wait_seconds(policy, result.store_attempts, at_least_seconds=error.retry_after_seconds)
        return StoreOutcome(result.id, result.lease_token, State.STORING, error=error.to_json(), delay_seconds=delay)
    return StoreOutcome(result.id, result.lease_token, State.FAILED, error=error.to_json())


class Storing(Holding[StoreOutcome, bool]):
    """The results that this process holds."""

    def __init__(
        self,
        store: ResultStore,
        catalog: CatalogHolder,
        accounts: Accounts,
        results: Results,
        settings: Settings,
        *,
        batches: Nudges,
    ) -> None:
        super().__init__("store_outcomes", store, store.end, drain_seconds=settings.drain_seconds)
        self._store = store
        self._accounts = accounts
        self._catalog = catalog
        self._results = results
        self._settings = settings
        self._batches = batches

    async def claim(self) -> bool:
        """Claim as many results as there is room for."""
        room = self.window.room(_LANE, self._settings.store_concurrency)
        if not room:
            return False
        claimed = await self._store.claim(room)
        if claimed:
            reach(CrashPoint.POLLER_RESULT_CLAIMED)
        metrics.CLAIMED.labels("result").inc(len(claimed))
        self.window.claimed(_LANE, len(claimed), room)
        for result in claimed:
            self.window.begin(_LANE, result.id, partial(self._carry, result), partial(self._end, result, monotonic()))
        return False

    async def _carry(self, result: ClaimedResult) -> StoreOutcome:
        follow(result.request_id, result.id)
        with tracing.resumed("store", result.trace_parent, result.id):
            return await self._stored(result)

    async def _stored(self, result: ClaimedResult) -> StoreOutcome:
        provider = self._catalog.current.providers.get(result.provider_id)
        try:
            if provider is None:
                raise GenerationError(
                    ErrorCode.INTERNAL_ERROR, "The catalog has dropped the provider.", is_retryable=True
                )
            outputs = await asyncio.gather(
                *(self._store_one(result, provider, index, source) for index, source in enumerate(result.sources))
            )
            return StoreOutcome(result.id, result.lease_token, State.SUCCESS, outputs=outputs)
        except GenerationError as error:
            log.warning("result not stored", error=error, provider=result.provider_id, attempt=result.store_attempts)
            metrics.RETRIES.labels(result.provider_id, "store").inc()
            return after_failure(result, error, provider)

    async def _end(self, result: ClaimedResult, claimed_at: float, outcome: StoreOutcome) -> None:
        reach(CrashPoint.POLLER_RESULT_STORED)
        if not await until_database_answers(lambda: self._outcomes.write(outcome)):
            metrics.FENCED_WRITES.labels("store").inc()
            await self._drop_if_cancelled(result, outcome)
            return
        reach(CrashPoint.POLLER_GENERATION_ENDED)
        if outcome.state is State.SUCCESS:
            seconds = result.waiting_seconds + monotonic() - claimed_at
            metrics.READY_TO_STORED_SECONDS.labels(result.provider_id).observe(seconds)
        self._tell(result, outcome)

    async def _drop_if_cancelled(self, result: ClaimedResult, outcome: StoreOutcome) -> None:
        """Another storer would have used the same keys; only after a cancel are they nobody's."""
        if not outcome.outputs:
            return
        if await until_database_answers(lambda: self._store.is_cancelled(result.id)):
            metrics.LATE_RESULTS.labels("store").inc()
            await self._results.discard(outcome.outputs)

    async def _store_one(
        self, result: ClaimedResult, provider: Provider, index: int, source: dict[str, Any]
    ) -> dict[str, Any]:
        place = Place(result.id, result.created_at, index)
        if "url" in source:
            headers_for = (
                self._accounts.adapter(provider).http.headers_for if "needs_credentials" in source else no_headers
            )
            return await self._results.store_url(
                source["url"], result.media_type, provider, place, headers_for=headers_for
            )
        content = await self._store.spooled(result.id, source["spooled"])
        if content is None:
            raise GenerationError(ErrorCode.INTERNAL_ERROR, "The output is not in the database any more.")
        return await self._results.store_bytes(content, result.media_type, provider, place)

    def _tell(self, result: ClaimedResult, outcome: StoreOutcome) -> None:
        if outcome.state is State.STORING:
            return
        if result.batch_id is not None:
            self._batches.note(result.batch_id)
        code = outcome.error["code"] if outcome.error else ""
        seconds = (datetime.now(UTC) - result.released_at).total_seconds()
        metrics.count_end(result.model_identifier, result.provider_id, outcome.state, code, seconds)
        if outcome.state is State.SUCCESS:
            metrics.Spend.count(result.model_identifier, result.provider_id, result.labels, result.cost_usd or 0.0)
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
