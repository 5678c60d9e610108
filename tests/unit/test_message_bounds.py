"""Requests of an RPC that hold too many values are refused before a handler looks at them."""

from __future__ import annotations

import pytest
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.struct_pb2 import Struct

from libs.common.errors import InvalidRequest
from libs.common.rpc.message_bounds import ITEM_VALUES_LIMIT, check


def _nested(values: int) -> Struct:
    struct = Struct()
    struct.update({"a": {"b": list(range(values))}})
    return struct


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (gateway_pb2.CreateGenerationRequest(input_images=["x"] * 300_000), "input_images"),
        (gateway_pb2.CreateGenerationRequest(labels={str(number): "x" for number in range(20_001)}), "labels"),
        (gateway_pb2.CreateGenerationRequest(parameters=_nested(20_001)), "parameters"),
        (gateway_pb2.CreateGenerationRequest(fallback_models=["x"] * 9_999, depends_on=["x"] * 10_002), "depends_on"),
        (
            gateway_pb2.CreateBatchRequest(
                requests=[gateway_pb2.CreateGenerationRequest(prompt="x"),
                          gateway_pb2.CreateGenerationRequest(parameters=_nested(2_001))]),
            "requests[1]",
        ),
        (gateway_pb2.CreateBatchRequest(requests=[gateway_pb2.CreateGenerationRequest()] * 20_001), "requests"),
    ],
    ids=["list", "map", "struct", "two lists", "message of a list", "list of messages"],
)  # fmt: skip
def test_too_many_values_are_refused(request_: gateway_pb2.CreateGenerationRequest, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(request_)
    (violation,) = caught.value.violations
    assert violation.rule == "values"
    assert violation.field == field


def test_a_batch_of_a_thousand_full_requests_passes() -> None:
    one = gateway_pb2.CreateGenerationRequest(
        model_identifier="m", prompt="x", parameters=_nested(50), labels={str(number): "x" for number in range(16)}
    )
    batch = gateway_pb2.CreateBatchRequest(requests=[one] * 1_000)
    check(batch)
    # One value more than a request may hold, anywhere in it, is refused.
    batch.requests[999].parameters.CopyFrom(_nested(ITEM_VALUES_LIMIT))
    with pytest.raises(InvalidRequest):
        check(batch)
