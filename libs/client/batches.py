"""Batches of the typed client: `await client.batches.submit(requests, max_concurrency=10)` answers an id at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.client.errors import answer_of
from libs.client.retrying import new_idempotency_key, repeated
from libs.client.watching import followed

_ANY = gateway_pb2.GENERATION_STATUS_UNSPECIFIED
_INLINE_LIMIT, _PART = 1_000, 500
_UPLOAD_SECONDS = 900.0

BatchProgress = Callable[[gateway_pb2.Batch], None]


def picture_from(ref: str, output: int = 0) -> gateway_pb2.OutputReference:
    """A picture that the request of that ref makes, for `images_from`. Its field is a keyword of Python's."""
    reference = gateway_pb2.OutputReference(output=output)
    setattr(reference, "from", ref)
    return reference


class Batches:
    """The batches of a client.

    Args:
        gateway: the RPCs.
        call_seconds: the deadline of each call; an upload gets a quarter of an hour.
    """

    def __init__(self, gateway: GenerationServiceStub, *, call_seconds: float) -> None:
        self._gateway = gateway
        self._call_seconds = call_seconds

    async def submit(
        self,
        requests: Sequence[gateway_pb2.CreateGenerationRequest],
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> str:
        """Create a batch and answer its id.

        Args:
            requests: up to 100,000; more than 1,000 travel as a stream.
            idempotency_key: None: a new one. All repeats of this call share it, so that nothing is created twice.
            options: fields of BatchOptions by their names in the proto, such as `max_concurrency`.

        Raises DarkroomError with what is wrong, by the index of the request: then nothing was created. With
        OUTCOME_UNKNOWN it may have been.
        """
        key, given = idempotency_key or new_idempotency_key(), gateway_pb2.BatchOptions(**options)
        if len(requests) <= _INLINE_LIMIT:
            whole = gateway_pb2.CreateBatchRequest(requests=requests, options=given, idempotency_key=key)
            made = await repeated(
                lambda seconds: self._gateway.CreateBatch(whole, timeout=seconds), seconds=self._call_seconds
            )
            return made.batch_id

        async def parts() -> AsyncIterator[gateway_pb2.UploadBatchRequest]:
            yield gateway_pb2.UploadBatchRequest(options=given, idempotency_key=key)
            for start in range(0, len(requests), _PART):
                yield gateway_pb2.UploadBatchRequest(requests=requests[start : start + _PART])

        uploaded = await repeated(
            lambda seconds: self._gateway.UploadBatch(parts(), timeout=seconds), seconds=_UPLOAD_SECONDS
        )
        return uploaded.batch_id

    async def estimate(
        self, requests: Sequence[gateway_pb2.CreateGenerationRequest], **options: Any
    ) -> gateway_pb2.EstimateCostResponse:
        """What up to 1,000 requests would cost and take. Options as for `submit`."""
        asked = gateway_pb2.EstimateCostRequest(requests=requests, options=gateway_pb2.BatchOptions(**options))
        return await answer_of(self._gateway.EstimateCost(asked, timeout=self._call_seconds))

    async def get(self, batch_id: str) -> gateway_pb2.Batch:
        """The batch without its generations. DarkroomError NOT_FOUND where there is none."""
        request = gateway_pb2.GetBatchRequest(batch_id=batch_id, page_size=0)
        return (await answer_of(self._gateway.GetBatch(request, timeout=self._call_seconds))).batch

    async def tasks(
        self,
        batch_id: str,
        *,
        status: gateway_pb2.GenerationStatus.ValueType = _ANY,
    ) -> AsyncIterator[gateway_pb2.Generation]:
        """All generations of a batch in their order; only those in that status, if one is given."""
        token = ""
        while True:
            request = gateway_pb2.GetBatchRequest(batch_id=batch_id, page_size=200, page_token=token, status=status)
            page = (await answer_of(self._gateway.GetBatch(request, timeout=self._call_seconds))).batch
            for task in page.tasks:
                yield task
            token = page.next_page_token
            if not token:
                return

    async def list_batches(self, *, limit: int = 50) -> AsyncIterator[gateway_pb2.Batch]:
        """The newest batches, at most `limit`."""
        token, left = "", limit
        while left > 0:
            request = gateway_pb2.ListBatchesRequest(page_size=min(left, 200), page_token=token)
            answer = await answer_of(self._gateway.ListBatches(request, timeout=self._call_seconds))
            for batch in answer.batches:
                yield batch
            left, token = left - len(answer.batches), answer.next_page_token
            if not token:
                return

    def watch(self, batch_id: str) -> AsyncGenerator[gateway_pb2.Batch, None]:
        """Its counters at each change, until it has ended. A stream that breaks is taken up where it broke.

        A caller that leaves the iteration early closes it, for instance with `contextlib.aclosing`: that ends the RPC.
        """
        return followed(
            lambda token: self._gateway.WatchBatch(
                gateway_pb2.WatchBatchRequest(batch_id=batch_id, resume_token=token)
            ),
            subject_of=lambda change: change.batch,
            has_ended=lambda batch: batch.status != gateway_pb2.BATCH_STATUS_PROCESSING,
            get=lambda: self.get(batch_id),
        )

    async def wait(self, batch_id: str, *, on_progress: BatchProgress | None = None) -> gateway_pb2.Batch:
        """The batch once it has ended, however that was."""
        latest = gateway_pb2.Batch(batch_id=batch_id)
        async with aclosing(self.watch(batch_id)) as changes:
            async for latest in changes:
                if on_progress is not None:
                    on_progress(latest)
        return latest

    async def cancel(self, batch_id: str) -> gateway_pb2.Batch:
        """Ask for a cancel; the batch as it stands then."""
        request = gateway_pb2.CancelBatchRequest(batch_id=batch_id)
        return (await answer_of(self._gateway.CancelBatch(request, timeout=self._call_seconds))).batch

    async def resume(
        self, batch_id: str, codes: Sequence[str] = (), *, accepted_second_payment_usd: float | None = None
    ) -> gateway_pb2.Batch:
        """Resume the generations that did not succeed, and return the batch.

        Args:
            batch_id: the batch.
            codes: only what ended for one of these error codes; none: any.
            accepted_second_payment_usd: what is accepted as a second payment, in US dollars, for generations with a
                submission that may be billed. None: they are left out; `left_out_tasks` and `second_payment_usd` of the
                batch say how many, and the price.
        """
        numbers = [common_pb2.ErrorCode.Value(f"ERROR_CODE_{code}") for code in codes]
        request = gateway_pb2.ResumeBatchRequest(
            batch_id=batch_id, error_codes=numbers, accepted_second_payment_usd=accepted_second_payment_usd
        )
        return (await answer_of(self._gateway.ResumeBatch(request, timeout=self._call_seconds))).batch
