"""Batches and estimates as messages."""

from __future__ import annotations

from darkroom.gateway.v1 import gateway_pb2

from libs.common.database.records_batches import BatchRecord
from libs.common.database.states import BatchStatus
from libs.common.database.stores.resuming import LeftOut
from libs.common.rpc.messages import timestamp
from services.gateway.batches.intake import Priced
from services.gateway.batches.tally import ModelEstimate

NOTHING = LeftOut()


def status_of(status: BatchStatus) -> gateway_pb2.BatchStatus.ValueType:
    """A status in the contract's words."""
    return gateway_pb2.BatchStatus.Value(f"BATCH_STATUS_{status.value}")


def batch_message(record: BatchRecord, left_out: LeftOut = NOTHING) -> gateway_pb2.Batch:
    """Return a batch as its owner sees it, without its generations; `left_out`: what a resume leaves out."""
    return gateway_pb2.Batch(
        batch_id=record.id,
        status=status_of(record.status),
        total_tasks=record.total_tasks,
        completed_tasks=record.completed_tasks,
        failed_tasks=record.failed_tasks,
        cancelled_tasks=record.cancelled_tasks,
        skipped_tasks=record.skipped_tasks,
        progress=100 * record.ended_tasks // record.total_tasks,
        created_at=timestamp(record.created_at),
        ended_at=timestamp(record.ended_at),
        estimate=estimate_of(record),
        cost_usd=record.cost_usd,
        seconds=((record.ended_at or record.now) - record.created_at).total_seconds(),
        stopped_at=timestamp(record.stopped_at),
        cancel_requested_at=timestamp(record.cancel_requested_at),
        options=_options_message(record),
        request_id=record.request_id,
        api_key_id=record.api_key_id,
        left_out_tasks=left_out.tasks,
        second_payment_usd=left_out.price_usd,
    )


def estimate_of(record: BatchRecord) -> gateway_pb2.Estimate:
    """What was expected when it was accepted."""
    return gateway_pb2.Estimate(
        low_usd=record.estimated_low_usd,
        expected_usd=record.estimated_usd,
        high_usd=record.estimated_high_usd,
        expected_seconds=record.estimated_seconds,
    )


def priced_message(priced: Priced) -> gateway_pb2.EstimateCostResponse:
    """What something would cost and take."""
    return gateway_pb2.EstimateCostResponse(
        low_usd=priced.whole.low_usd,
        expected_usd=priced.whole.expected_usd,
        high_usd=priced.whole.high_usd,
        expected_seconds=priced.whole.expected_seconds,
        currency="USD",
        total_tasks=priced.total_tasks,
        models=[_model_message(model) for model in priced.models],
        resubmit_usd=priced.resubmit_usd,
    )


def _model_message(model: ModelEstimate) -> gateway_pb2.ModelEstimate:
    return gateway_pb2.ModelEstimate(
        model_identifier=model.model_identifier,
        total_tasks=model.tasks,
        low_usd=model.low_usd,
        expected_usd=model.expected_usd,
        high_usd=model.high_usd,
        seconds_each=model.seconds_each,
        observed_tasks=model.observed,
        queued_tasks=model.queued,
    )


def _options_message(record: BatchRecord) -> gateway_pb2.BatchOptions:
    return gateway_pb2.BatchOptions(
        parallel=record.is_parallel,
        max_concurrency=record.max_concurrency,
        stop_on_error=record.stop_on_error,
        priority=record.priority,
        callback_url=record.callback_url or "",
        budget_usd=record.budget_usd,
        callback_every_tasks=record.callback_every_tasks,
        callback_every_seconds=record.callback_every_seconds,
    )
