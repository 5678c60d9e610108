"""From JSON to messages and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from darkroom.gateway.v1 import gateway_pb2, images_pb2
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidRequest
from libs.common.rpc.json import to_json
from services.gateway.rest.reading import Reader
from services.gateway.rest.routes import all_bindings

BINDINGS = {binding.method.name: binding for binding in all_bindings()}
CREATE, LIST = BINDINGS["CreateGeneration"], BINDINGS["ListGenerations"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
UNICODE = st.characters(codec="utf-8")
NAMES = st.sampled_from([name for field in CREATE.method.input_type.fields for name in (field.name, field.json_name)])


def _read(body: Any) -> gateway_pb2.CreateGenerationRequest:
    message = Reader().read(CREATE, body=json.dumps(body).encode(), path={}, query=[])
    assert isinstance(message, gateway_pb2.CreateGenerationRequest)
    return message


@given(body=st.dictionaries(NAMES | st.text(max_size=10), ANYTHING, max_size=6))
def test_whatever_comes_is_read_or_refused_with_reasons(body: dict[str, Any]) -> None:
    try:
        message = _read(body)
    except InvalidRequest as error:
        assert all(violation.description for violation in error.violations)
        return
    message.SerializeToString()


@given(body=st.binary(max_size=200))
def test_whatever_bytes_come_are_read_or_refused(body: bytes) -> None:
    try:
        Reader().read(CREATE, body=body, path={}, query=[])
    except InvalidRequest as error:
        assert error.violations[0].field


@given(query=st.lists(st.tuples(st.text(max_size=20) | NAMES | st.just("labels[a]"), st.text(max_size=20)), max_size=4))
def test_whatever_query_comes_is_read_or_refused(query: list[tuple[str, str]]) -> None:
    try:
        Reader().read(LIST, body=b"", path={}, query=query)
    except InvalidRequest as error:
        assert error.violations


@given(
    prompt=st.text(UNICODE, max_size=50),
    numbers=st.dictionaries(st.text(UNICODE, max_size=5),
                            st.integers(-(2**53), 2**53) | st.booleans() | st.text(max_size=3), max_size=3),
    labels=st.dictionaries(st.text("abc", max_size=5), st.text("xyz", max_size=5), max_size=3),
    priority=st.none() | st.integers(-(2**31), 2**31 - 1),
)  # fmt: skip
def test_what_is_written_is_read_as_it_was(
    prompt: str, numbers: dict[str, Any], labels: dict[str, str], priority: int | None
) -> None:
    message = gateway_pb2.CreateGenerationRequest(
        model_identifier="m", prompt=prompt, labels=labels, priority=priority,
        when_uncertain=gateway_pb2.UNCERTAIN_SUBMIT_POLICY_FAIL, input_images=["a", "b"],
    )  # fmt: skip
    message.parameters.update(numbers)
    assert _read(to_json(message)) == message


def test_both_names_are_taken_and_a_field_given_twice_is_told() -> None:
    assert _read({"model_identifier": "a"}) == _read({"modelIdentifier": "a"})
    try:
        _read({"model_identifier": "a", "modelIdentifier": "b"})
    except InvalidRequest as error:
        assert error.violations[0].rule == "twice"
    else:
        raise AssertionError("it was read")


def test_words_are_taken_with_and_without_their_prefix() -> None:
    short = _read({"whenUncertain": "FAIL"})
    assert short == _read({"whenUncertain": "UNCERTAIN_SUBMIT_POLICY_FAIL"})


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"content": "aGVsbG8="}, None),
        ({"content": "no base64!"}, ("content", "base64")),
        ({"content": 7}, ("content", "type")),
        ({"content": "aGVsbG8=", "url": "https://x"}, ("url", "one_of")),
        ({"config": {"compression": {"maxSizeKB": 20}}}, None),
        ({"config": {"compression": {"max_size_kb": 20}}}, None),
        ({"config": {"compression": {"maxSizeKb": 20}}}, ("config.compression.maxSizeKb", "unknown")),
        ({"config": {"resize": {"enlarge": 1}}}, ("config.resize.enlarge", "type")),
    ],
)
def test_bytes_choices_and_names_of_their_own(body: dict[str, Any], fault: tuple[str, str] | None) -> None:
    reader = Reader()
    reader.read_json(images_pb2.PreprocessImageRequest(), json.dumps(body).encode(), "")
    assert [(found.field, found.rule) for found in reader.found] == ([] if fault is None else [fault])
