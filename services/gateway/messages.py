"""Generations and models as messages."""

from __future__ import annotations

from darkroom.gateway.v1 import gateway_pb2

from libs.common.catalog import Catalog, Model
from libs.common.database.records import GenerationRecord
from libs.common.database.states import State
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


def generation_message(record: GenerationRecord, url_of: UrlOf) -> gateway_pb2.Generation:
    """A generation as its owner sees it."""
    state = State(record.state)
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
        cost_usd=(record.cost_usd or 0.0) if state is State.SUCCESS else 0.0,
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
