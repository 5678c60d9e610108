"""Bad input gets a clear error and leaves nothing behind."""

from __future__ import annotations

from typing import Any, cast

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.json_format import MessageToDict
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status

from libs.common.database.engine import Database
from libs.common.errors import ErrorCode
from libs.common.rpc.errors import from_rpc_error
from tests.support.rows import rows
from tests.support.running import Running


async def _refused(running: Running, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.create(fields.pop("model", "gpt-image-1"), fields.pop("prompt", "a red apple"), **fields)
    return caught.value


async def _generations(running: Running) -> int:
    url = running.stack.environment["DARKROOM_DATABASE_URL"]
    database = Database(url, size=1, statement_timeout_seconds=5, application_name="test")
    try:
        (row,) = await rows(database, "SELECT count(*) AS count FROM generation_requests")
    finally:
        await database.close()
    return int(row["count"])


@pytest.mark.parametrize(
    ("fields", "status", "code", "field", "reason"),
    [
        pytest.param(
            {"model": "no-such-model"}, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "model_identifier", "EXISTS",
            id="an unknown model",
        ),
        pytest.param(
            {"prompt": ""}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "prompt", "STRING_TOO_SHORT",
            id="an empty prompt",
        ),
        pytest.param(
            {"number_of_outputs": 11}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "number_of_outputs",
            "LESS_THAN_EQUAL", id="11 outputs",
        ),
        pytest.param(
            {"parameters": {"quality": "best"}}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PARAMETERS",
            "parameters.quality", "LITERAL_ERROR", id="an unknown quality",
        ),
    ],
)  # fmt: skip
async def test_bad_input_is_refused_with_details_and_leaves_no_row(
    running: Running, *, fields: dict[str, Any], status: grpc.StatusCode, code: str, field: str, reason: str
) -> None:
    before = await _generations(running)

    error = await _refused(running, **fields)

    assert error.code() is status
    found = rpc_status.from_call(cast("grpc.Call", error))
    assert found is not None
    info, bad_request = ErrorInfo(), BadRequest()
    for detail in found.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
    assert (info.reason, info.domain, info.metadata["is_retryable"]) == (code, "darkroom", "false")
    assert [(violation.field, violation.reason) for violation in bad_request.field_violations] == [(field, reason)]
    assert await _generations(running) == before


async def test_an_error_is_the_same_on_both_sides_of_grpc(running: Running) -> None:
    error = from_rpc_error(await _refused(running, prompt="", number_of_outputs=11))
    assert error.code is ErrorCode.INVALID_REQUEST
    assert {violation.field for violation in error.violations} == {"prompt", "number_of_outputs"}
    assert not error.is_retryable


async def test_an_unknown_id_is_not_found(running: Running) -> None:
    for generation_id in ("gen_none", "", "a\x00b", "x" * 10_000):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.get(generation_id)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_request_id_comes_back_and_stays_with_the_generation(running: Running) -> None:
    request = gateway_pb2.CreateGenerationRequest(model_identifier="gpt-image-1", prompt="x")
    call = running.gateway.CreateGeneration(request, metadata=(("x-request-id", "trace-42"),), timeout=60)
    answer = await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "trace-42"
    assert (await running.get(answer.id)).request_id == "trace-42"


async def test_the_models_are_listed_with_price_and_schema(running: Running) -> None:
    answer = await running.gateway.ListModels(gateway_pb2.ListModelsRequest(), timeout=60)
    models = {model.identifier: model for model in answer.models}
    assert models["flux-pro"].price_per_output_usd == pytest.approx(0.04)
    schema = MessageToDict(models["dall-e-3"].parameters_schema)
    assert schema["properties"]["style"]["default"] == "vivid"
    assert schema["additionalProperties"] is False


async def test_models_are_listed_by_media_type(running: Running) -> None:
    videos = await running.gateway.ListModels(gateway_pb2.ListModelsRequest(media_type="video"), timeout=60)
    assert {model.media_type for model in videos.models} == {"video"}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.gateway.ListModels(gateway_pb2.ListModelsRequest(media_type="sound"), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
