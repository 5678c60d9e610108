"""Stores the outputs in the reply of a synchronous provider, spools them, or leaves them to the poller."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

import structlog

from libs.common import metrics
from libs.common.adapters.base import Completed, ProviderOutput, must_store
from libs.common.adapters.http import Reply
from libs.common.crashpoints import CrashPoint, reach
from libs.common.database.records_dispatch import DispatchOutcome
from libs.common.encodings import is_media
from libs.common.errors import Details, GenerationError
from libs.common.storage.results import Place, Results
from services.dispatcher import outcomes
from services.dispatcher.outcomes import Job

log = structlog.get_logger()
_STORE_AT_ONCE_SECONDS = 30.0


class Completing:
    """Turns the outputs in a reply into the outcome of the submit.

    Args:
        results: stores outputs that come as bytes.
    """

    def __init__(self, results: Results) -> None:
        self._results = results

    async def outcome(self, job: Job, answer: Completed, reply: Reply | None) -> DispatchOutcome:
        """The outcome of a submit that was answered with outputs.

        Outputs that are no media are left out, and the reply is kept. If none remains, the submission is uncertain: the
        provider may have billed it. The poller downloads URLs. Bytes are stored at once; they are spooled in the
        database if they cannot be stored, and if the reply has URLs as well.
        """
        cost_usd = answer.cost_usd
        if cost_usd is None:
            # The provider bills the outputs that it sent, readable or not, and no more than were requested.
            billed = min(len(answer.outputs) + answer.unread, job.claimed.number_of_outputs)
            cost_usd = job.model.cost_usd(billed, job.claimed.parameters)
        faults = [self._fault(job, output) for output in answer.outputs]
        good = [output for output, fault in zip(answer.outputs, faults, strict=True) if fault is None]
        is_doubtful = any(output.content is not None and not is_media(output.content) for output in good)
        is_partial = answer.unread > 0 or len(good) < len(faults)
        kept = reply.kept() if reply is not None and (is_partial or is_doubtful) else None
        if not good:
            fault = next((fault for fault in faults if fault is not None), None)
            why = fault.message if fault is not None else "It has no outputs."
            return outcomes.unusable(job, why, kept)
        if kept is not None:
            log.warning(
                "outputs left out, or of no known type", unread=answer.unread + len(faults) - len(good), reply=kept
            )
        if all(output.content is None for output in good):
            return self._by_url(job, good, cost_usd, kept)
        if any(output.content is None for output in good):
            return self._spooled(job, good, cost_usd, kept)
        return await self._stored(job, good, cost_usd, kept)

    def _fault(self, job: Job, output: ProviderOutput) -> GenerationError | None:
        return None if output.content is None else self._results.fault_of(output.content, job.model.media_type)

    def _by_url(self, job: Job, good: list[ProviderOutput], cost_usd: float, kept: Details | None) -> DispatchOutcome:
        sources = [output.to_source(job.model.media_type) for output in good]
        if not must_store(good, upload_to_s3=job.provider.storage.upload_to_s3):
            return outcomes.completed(job, sources, cost_usd, kept)
        return outcomes.to_be_stored(job, sources, cost_usd, kept=kept)

    def _spooled(self, job: Job, good: list[ProviderOutput], cost_usd: float, kept: Details | None) -> DispatchOutcome:
        media_type = job.model.media_type
        sources: list[dict[str, Any]] = []
        spool: list[bytes] = []
        for output in good:
            if output.content is None:
                sources.append(output.to_source(media_type))
            else:
                sources.append({"type": media_type, "spooled": len(spool)})
                spool.append(output.content)
        return outcomes.to_be_stored(job, sources, cost_usd, spool=tuple(spool), kept=kept)

    async def _stored(
        self, job: Job, good: list[ProviderOutput], cost_usd: float, kept: Details | None
    ) -> DispatchOutcome:
        began = perf_counter()
        try:
            async with asyncio.timeout(_STORE_AT_ONCE_SECONDS):
                stored = await asyncio.gather(*(self._store(job, index, output) for index, output in enumerate(good)))
        except Exception as error:
            # Whatever the reason is: the outputs are paid for, and the poller stores each that can be stored.
            log.warning("outputs not stored, they wait in the database", exc_info=error)
            return self._spooled(job, good, cost_usd, kept)
        metrics.READY_TO_STORED_SECONDS.labels(job.provider.id).observe(perf_counter() - began)
        reach(CrashPoint.DISPATCHER_OUTPUT_STORED)
        return outcomes.completed(job, stored, cost_usd, kept)

    async def _store(self, job: Job, index: int, output: ProviderOutput) -> dict[str, Any]:
        place = Place(job.claimed.id, job.claimed.created_at, index)
        return await self._results.store_bytes(output.content or b"", job.model.media_type, job.provider, place)
