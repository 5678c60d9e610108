"""Requests of an RPC that hold too many values are refused before a handler looks at them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from typing import Any, cast

import pytest
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidRequest
from libs.common.rpc.message_bounds import ITEM_VALUES_LIMIT, VALUES_LIMIT, check, count_nested


def _struct(values: Mapping[str, Any]) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


def _nested(values: int) -> Struct:
    return _struct({"a": {"b": list(range(values))}})


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (gateway_pb2.CreateGenerationRequest(input_images=["x"] * 300_000), "input_images"),
        (gateway_pb2.CreateGenerationRequest(labels={str(number): "x" for number in range(20_001)}), "labels"),
        (gateway_pb2.CreateGenerationRequest(parameters=_nested(4_001)), "parameters"),
        (gateway_pb2.CreateGenerationRequest(parameters=_struct({str(n): n for n in range(2_001)})), "parameters"),
        (gateway_pb2.CreateGenerationRequest(fallback_models=["x"] * 9_999, depends_on=["x"] * 10_002), "depends_on"),
        (
            gateway_pb2.CreateBatchRequest(
                requests=[gateway_pb2.CreateGenerationRequest(prompt="x"),
                          gateway_pb2.CreateGenerationRequest(parameters=_nested(2_001))]),
            "requests[1]",
        ),
        (gateway_pb2.CreateBatchRequest(requests=[gateway_pb2.CreateGenerationRequest()] * 20_001), "requests"),
    ],
    ids=["list", "map", "list in a struct", "struct", "two lists", "message of a list", "list of messages"],
)  # fmt: skip
async def test_too_many_values_are_refused(request_: Message, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await check(request_.SerializeToString(), cast("Descriptor", request_.DESCRIPTOR))
    (violation,) = caught.value.violations
    assert violation.rule == "values"
    assert violation.field == field


async def test_a_batch_of_a_thousand_full_requests_passes() -> None:
    one = gateway_pb2.CreateGenerationRequest(
        model_identifier="m", prompt="x", parameters=_nested(50), labels={str(number): "x" for number in range(16)}
    )
    batch = gateway_pb2.CreateBatchRequest(requests=[one] * 1_000)
    await check(batch.SerializeToString(), batch.DESCRIPTOR)
    # One value more than a request may hold, anywhere in it, is refused.
    batch.requests[999].parameters.CopyFrom(_nested(ITEM_VALUES_LIMIT))
    with pytest.raises(InvalidRequest):
        await check(batch.SerializeToString(), batch.DESCRIPTOR)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, 0x80 | len(content) & 0x7F, 0x80 | len(content) >> 7 & 0x7F, len(content) >> 14]) + (
        content
    )


_REQUESTS = gateway_pb2.CreateBatchRequest.DESCRIPTOR.fields_by_name["requests"].number
_PARAMETERS = gateway_pb2.CreateGenerationRequest.DESCRIPTOR.fields_by_name["parameters"].number
_EMPTY = b"\x0a\x00"


@pytest.mark.parametrize(
    "bytes_",
    [
        pytest.param(bytes([_REQUESTS << 3 | 2, 0]) * 500_000, id="empty messages"),
        pytest.param(_field(_REQUESTS, _field(_PARAMETERS, _EMPTY * 500_000)), id="empty entries in one request"),
        pytest.param(b"\xfb\x07" + _field(_REQUESTS, _EMPTY * 500_000), id="behind a group that nobody knows"),
        pytest.param(b"\x98\x06\x01" * 500_000, id="fields that nobody knows"),
    ],
)
async def test_they_are_counted_before_the_parser_has_made_objects_of_them(bytes_: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            await check(bytes_, gateway_pb2.CreateBatchRequest.DESCRIPTOR)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    finally:
        tracemalloc.stop()


async def test_the_messages_of_a_list_have_a_limit_together() -> None:
    with pytest.raises(InvalidRequest, match="400,000"):
        await check(_field(_REQUESTS, _EMPTY * 1_000) * 401, gateway_pb2.CreateBatchRequest.DESCRIPTOR)


_MESSAGES = st.builds(
    gateway_pb2.CreateGenerationRequest,
    prompt=st.text(max_size=20),
    input_images=st.lists(st.text(max_size=5), max_size=5),
    labels=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=5),
    reuse_within_seconds=st.integers(0, 2**31 - 1),
    parameters=st.dictionaries(st.text(max_size=3), st.recursive(st.none() | st.floats(allow_nan=False), st.lists)).map(
        _struct
    ),
)


def _all_values(message: Message) -> int:
    """What a reader of the parsed message counts: each field, each entry and each key."""
    count = 0
    for field, value in message.ListFields():
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        items = list(value.values()) if is_map else list(value) if field.is_repeated else [value]
        count += sum((3 if is_map else 1) + (_all_values(item) if isinstance(item, Message) else 0) for item in items)
    return count


@given(_MESSAGES)
async def test_it_counts_what_the_parser_would_find(message: gateway_pb2.CreateGenerationRequest) -> None:
    field = gateway_pb2.CreateBatchRequest.DESCRIPTOR.fields_by_name["requests"]
    content = message.SerializeToString()
    assert count_nested(content, 0, len(content), field, VALUES_LIMIT) == _all_values(message)


@given(st.binary(max_size=200))
async def test_no_bytes_break_it(bytes_: bytes) -> None:
    field = gateway_pb2.CreateBatchRequest.DESCRIPTOR.fields_by_name["requests"]
    assert count_nested(bytes_, 0, len(bytes_), field, VALUES_LIMIT) <= len(bytes_)
    await check(bytes_, gateway_pb2.CreateBatchRequest.DESCRIPTOR)
    await check(b"\x0a" + b"\xff" * 1_000_000, gateway_pb2.CreateBatchRequest.DESCRIPTOR)
