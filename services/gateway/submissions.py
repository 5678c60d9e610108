"""The RPCs about submissions, for operators: list, resolve one, resolve many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from darkroom.gateway.v1 import gateway_pb2 as messages

from libs.common.catalog import CatalogHolder
from libs.common.database.records_dispatch import SubmissionRecord
from libs.common.database.stores.billing import BillingStore, Resolved
from libs.common.database.stores.submissions import SubmissionStore
from libs.common.errors import NotFound
from libs.common.ids import new_id
from libs.common.rpc.deadlines import after_commit
from libs.common.rpc.pages import page, page_size, page_start
from libs.common.rpc.requests import known
from services.gateway.messages import submission_message
from services.gateway.resolutions import check_bulk, decision_of, selected_submissions, wanted_submissions

IDS_LIMIT = 1_000


class Submissions:
    """Answers the RPCs about submissions.

    Args:
        catalog: the models of attached tasks.
        store: reads submissions and resolves one.
        billing: resolves the money of many submissions.
        wake: called with the ids of continuations after their commit.
    """

    def __init__(
        self,
        catalog: CatalogHolder,
        store: SubmissionStore,
        billing: BillingStore,
        wake: Callable[[list[str]], None],
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._billing = billing
        self._wake = wake

    async def list_page(self, request: messages.ListSubmissionsRequest) -> messages.ListSubmissionsResponse:
        """Return a page of submissions, and the number and money at risk of all that match."""
        size, wanted = page_size(request), wanted_submissions(request)
        found = await self._store.list_page(size + 1, wanted, after=page_start(request) or "")
        records, next_token = page(found, size)
        number, at_risk_usd = await self._store.totals(wanted)
        return messages.ListSubmissionsResponse(
            submissions=[submission_message(record) for record in records],
            next_page_token=next_token,
            total_submissions=number,
            total_at_risk_usd=at_risk_usd,
        )

    async def resolve(self, request: messages.ResolveSubmissionRequest) -> messages.ResolveSubmissionResponse:
        """Resolve one submission, then notify the dispatcher of the generation that continues its own.

        Raises OutcomeUnknown where the decision was committed and the submission could not be read for the answer; what
        `decision_of` and `SubmissionStore.resolve` raise.
        """
        record = await self._found(known(request.submission_id))
        decision = decision_of(request, record, self._catalog.current)
        continued_by = await self._store.resolve(record.id, decision, new_id=new_id("gen"))
        with after_commit(submission_id=record.id, generation_id=continued_by or ""):
            self._wake([continued_by] if continued_by else [])
            after = await self._found(record.id)
        return messages.ResolveSubmissionResponse(
            generation_id=continued_by or "", submission=submission_message(after)
        )

    async def resolve_many(self, request: messages.ResolveSubmissionsRequest) -> messages.ResolveSubmissionsResponse:
        """Resolve the money of many submissions, or return the result without resolving them (`dry_run`)."""
        answer = check_bulk(request, IDS_LIMIT)
        how: dict[str, Any] = {"dismiss": request.dismiss}
        if not request.HasField("selection"):
            ids = _distinct(request.submission_ids)
            if request.dry_run:
                done = await self._billing.preview_named(ids, answer, **how)
            else:
                done = await self._billing.resolve_named(ids, answer, note=request.note, **how)
            return _response(done, len(ids) - done.submissions)
        wanted = selected_submissions(request.selection)
        if request.dry_run:
            return _response(await self._billing.preview(wanted, answer, **how), 0)
        return _response(await self._billing.resolve_all(wanted, answer, note=request.note, **how), 0)

    async def _found(self, submission_id: str) -> SubmissionRecord:
        record = await self._store.get(submission_id)
        if record is None:
            raise NotFound("submission_id", f"There is no submission {submission_id[:100]!r}.")
        return record


def _distinct(ids: Sequence[str]) -> list[str]:
    return sorted({known(one) for one in ids})


def _response(done: Resolved, skipped: int) -> messages.ResolveSubmissionsResponse:
    return messages.ResolveSubmissionsResponse(
        resolved_submissions=done.submissions,
        at_risk_usd=done.at_risk_usd,
        spent_usd=done.spent_usd,
        skipped_submissions=skipped,
        has_more=done.has_more,
    )
