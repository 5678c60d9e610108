"""Generations and models as messages."""

from __future__ import annotations

from datetime import datetime

from darkroom.common.v1 import common_pb2
from darkroom.gateway.v1 import gateway_pb2

from libs.common.catalog import Catalog, Model
from libs.common.database.records import GenerationRecord, Json
from libs.common.database.records_dispatch import SubmissionRecord
from libs.common.database.records_edge import Accepted, CallbackRecord
from libs.common.database.states import TERMINAL, CallbackState, State
from libs.common.rpc.messages import UrlOf, error_message, output_messages, timestamp
from libs.common.rpc.structs import to_struct
from libs.common.validation.common import json_schema

STATUS_OF_STATE: dict[State, gateway_pb2.GenerationStatus.ValueType] = {
    State.HELD: gateway_pb2.GENERATION_STATUS_PENDING,
    State.PENDING: gateway_pb2.GENERATION_STATUS_PENDING,
    State.DISPATCHING: gateway_pb2.GENERATION_STATUS_PENDING,
    State.PROCESSING: gateway_pb2.GENERATION_STATUS_PROCESSING,
    State.STORING: gateway_pb2.GENERATION_STATUS_PROCESSING,
    State.SUCCESS: gateway_pb2.GENERATION_STATUS_SUCCESS,
    State.FAILED: gateway_pb2.GENERATION_STATUS_FAILED,
    State.CANCELLED: gateway_pb2.GENERATION_STATUS_CANCELLED,
}
_SHOW_ERROR = {State.FAILED, State.CANCELLED}
_RESOLUTIONS: dict[str | None, gateway_pb2.SubmissionResolution.ValueType] = {
    None: gateway_pb2.SUBMISSION_RESOLUTION_UNSPECIFIED,
    "ATTACHED": gateway_pb2.SUBMISSION_RESOLUTION_ATTACHED,
    "RESUBMITTED": gateway_pb2.SUBMISSION_RESOLUTION_RESUBMITTED,
    "DISMISSED": gateway_pb2.SUBMISSION_RESOLUTION_DISMISSED,
}


def ticket_message(ticket: Accepted, resubmit_usd: float) -> gateway_pb2.CreateGenerationResponse:
    """The answer to an accepted request. `resubmit_usd`: what repeated payments may add, in US dollars."""
    return gateway_pb2.CreateGenerationResponse(
        id=ticket.generation_id,
        status=STATUS_OF_STATE[ticket.state],
        reused_from_id=ticket.reused_from_id or "",
        is_repeat=ticket.is_repeat,
        resubmit_usd=resubmit_usd,
    )


def rerun_message(ticket: Accepted) -> gateway_pb2.RerunGenerationResponse:
    """Return the answer to a rerun."""
    return gateway_pb2.RerunGenerationResponse(
        id=ticket.generation_id, status=STATUS_OF_STATE[ticket.state], is_repeat=ticket.is_repeat
    )


def generation_message(record: GenerationRecord, url_of: UrlOf) -> gateway_pb2.Generation:
    """A generation as its owner sees it."""
    state = State(record.state)
    waits = state is State.PENDING and record.attempts > 0
    return gateway_pb2.Generation(
        id=record.id,
        status=STATUS_OF_STATE[state],
        progress=record.progress,
        results=output_messages(record.outputs or [], url_of) if state is State.SUCCESS else [],
        error=error_message(record.error) if record.error and state in _SHOW_ERROR else None,
        model_identifier=record.model_identifier,
        provider_id=record.provider_id,
        provider_task_id=record.provider_task_id or "",
        attempts=record.attempts,
        polls=record.polls,
        prompt=record.prompt,
        parameters=to_struct(record.parameters),
        number_of_outputs=record.number_of_outputs,
        priority=record.priority,
        labels=record.labels,
        user_id=record.user_id or "",
        request_id=record.request_id,
        created_at=timestamp(record.created_at),
        updated_at=timestamp(record.updated_at),
        submitted_at=timestamp(record.submitted_at),
        ended_at=timestamp(record.ended_at),
        cost_usd=(record.cost_usd or 0.0) if state in TERMINAL else 0.0,
        next_attempt_at=timestamp(record.next_attempt_at) if waits else None,
        last_error=error_message(record.error) if record.error and state not in TERMINAL else None,
        fallback_path=[_step_message(step) for step in record.fallback_path],
        cancel_requested_at=timestamp(record.cancel_requested_at),
        continues_id=record.continues_id or "",
        continued_by_id=record.continued_by_id or "",
        reused_from_id=record.reused_from_id or "",
        rerun_of_id=record.rerun_of_id or "",
        rerun_ids=record.rerun_ids,
        callback_url=record.callback_url or "",
        api_key_id=record.api_key_id,
        batch_id=record.batch_id or "",
        batch_index=record.batch_index,
        ref=record.batch_ref or "",
        experiment_id=record.experiment_id or "",
        variant_id=record.variant_id or "",
        requested_model_identifier=record.requested_model_identifier or "",
        at_risk_usd=record.at_risk_usd,
    )


def _step_message(step: dict[str, str]) -> gateway_pb2.FallbackStep:
    return gateway_pb2.FallbackStep(
        model_identifier=step["model_identifier"],
        provider_id=step["provider_id"],
        code=common_pb2.ErrorCode.Value(f"ERROR_CODE_{step['code']}"),
        left_at=timestamp(datetime.fromisoformat(step["left_at"])),
    )


def submission_message(record: SubmissionRecord) -> gateway_pb2.Submission:
    """An attempt to submit as an operator sees it."""
    return gateway_pb2.Submission(
        id=record.id,
        generation_id=record.generation_id,
        attempt=record.attempt,
        provider_id=record.provider_id,
        model_identifier=record.model_identifier or "",
        state=gateway_pb2.SubmissionState.Value(f"SUBMISSION_STATE_{record.state}"),
        provider_task_id=record.provider_task_id or "",
        provider_request_id=record.provider_request_id or "",
        http_status=record.http_status or 0,
        error=error_message(record.error) if record.error else None,
        latency_ms=record.latency_ms or 0,
        started_at=timestamp(record.started_at),
        ended_at=timestamp(record.ended_at),
        resolution=_RESOLUTIONS[record.resolution],
        note=record.resolution_note or "",
        resolved_at=timestamp(record.resolved_at),
        expected_cost_usd=record.expected_cost_usd,
        at_risk_usd=record.at_risk_usd,
        spent_usd=record.spent_usd,
        billing=gateway_pb2.SubmissionBilling.Value(f"SUBMISSION_BILLING_{record.billing or 'UNSPECIFIED'}"),
        billing_at=timestamp(record.billing_at),
        reply=_unread_reply(record.reply) if record.reply else None,
    )


def _unread_reply(kept: Json) -> gateway_pb2.UnreadReply:
    return gateway_pb2.UnreadReply(
        http_status=int(kept.get("http_status") or 0),
        content_type=str(kept.get("content_type") or ""),
        size_bytes=int(kept.get("size_bytes") or 0),
        body=str(kept.get("body") or ""),
    )


def callback_message(record: CallbackRecord) -> gateway_pb2.Callback:
    """A callback as its owner sees it."""
    waits = record.state is CallbackState.PENDING
    return gateway_pb2.Callback(
        id=record.id,
        generation_id=record.generation_id or "",
        batch_id=record.batch_id or "",
        event=record.event,
        url=record.url,
        state=gateway_pb2.CallbackState.Value(f"CALLBACK_STATE_{record.state.value}"),
        attempts=record.attempts,
        last_http_status=record.last_http_status or 0,
        last_error=record.last_error or "",
        next_attempt_at=timestamp(record.next_attempt_at) if waits else None,
        created_at=timestamp(record.created_at),
        ended_at=timestamp(record.ended_at),
    )


def model_message(model: Model, catalog: Catalog) -> gateway_pb2.Model:
    """A model of the catalog with the schema of its parameters."""
    return gateway_pb2.Model(
        identifier=model.identifier,
        provider_id=model.provider,
        media_type=model.media_type,
        price_per_output_usd=model.price_per_output_usd,
        price_per_second_usd=model.price_per_second_usd,
        max_outputs=model.max_outputs,
        max_input_images=model.max_input_images,
        max_duration_seconds=model.max_duration_seconds,
        parameters_schema=to_struct(json_schema(catalog.adapter_of(model).parameters, model.defaults)),
        stored=catalog.provider_of(model).storage.upload_to_s3,
        description=model.description,
    )
