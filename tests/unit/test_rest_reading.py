"""From JSON to messages and back."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
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


@pytest.mark.parametrize("name", ["\ud800", "prompt\udfff", "\u00e9", "\x00"])
@pytest.mark.parametrize("within", [False, True])
def test_a_name_that_no_field_can_have_is_unknown(name: str, within: bool) -> None:
    body = {"inputImages": [], "callback": {name: 1}} if within else {name: 1}
    with pytest.raises(InvalidRequest) as caught:
        _read(body)
    assert "unknown" in {violation.rule for violation in caught.value.violations}


@pytest.mark.parametrize("word", ["\ud800", "RESUBMIT\udfff", "\u00df", "\x00"])
def test_a_word_that_no_enum_can_have_is_unknown(word: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _read({"whenUncertain": word})
    assert [violation.field for violation in caught.value.violations] == ["whenUncertain"]


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
    ("query", "names"),
    [
        ([("status", "SUCCESS"), ("status", "FAILED")], ["status"]),
        ([("pageSize", "1"), ("page_size", "1"), ("pageSize", "1")], ["page_size", "pageSize"]),
        ([("labels[a]", "1"), ("labels[b]", "1"), ("labels[a]", "2")], ["labels[a]"]),
    ],
)
def test_a_parameter_of_a_query_that_is_given_twice_is_told(query: list[tuple[str, str]], names: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Reader().read(LIST, body=b"", path={}, query=query)
    assert [(found.field, found.rule) for found in caught.value.violations] == [(name, "twice") for name in names]


def test_repeated_fields_of_a_query_are_all_taken() -> None:
    message: Any = Reader().read(
        BINDINGS["GetResults"], body=b"", path={"id": "exp_1"}, query=[("plots", "intervals"), ("plots", "effect")]
    )
    assert len(message.plots) == 2


def test_neither_query_nor_body_contradicts_the_path() -> None:
    for binding, body, query in (
        (BINDINGS["GetGeneration"], b"", [("id", "gen_2")]),
        (BINDINGS["UpdateApiKey"], b'{"id": "key_2"}', []),
    ):
        with pytest.raises(InvalidRequest, match="id: given twice"):
            Reader().read(binding, body=body, path={"id": "gen_1"}, query=query)
    same: Any = Reader().read(BINDINGS["GetGeneration"], body=b"", path={"id": "gen_1"}, query=[("id", "gen_1")])
    assert same.id == "gen_1"


@pytest.mark.parametrize(
    "body",
    [
        {"modelIdentifier": "m", "numberOfOutputs": "3", "whenUncertain": 1, "priority": "7.0"},
        {"modelIdentifier": "m", "numberOfOutputs": 3.0, "whenUncertain": "FAIL", "priority": "7e0"},
        {"modelIdentifier": "m", "numberOfOutputs": 3, "whenUncertain": "UNCERTAIN_SUBMIT_POLICY_FAIL", "priority": 7},
    ],
)
def test_the_spellings_of_the_protobuf_mapping_are_read(body: dict[str, Any]) -> None:
    assert _read(body) == gateway_pb2.CreateGenerationRequest(
        model_identifier="m", number_of_outputs=3, priority=7,
        when_uncertain=gateway_pb2.UNCERTAIN_SUBMIT_POLICY_FAIL,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        *(
            ({"numberOfOutputs": text}, "type")
            for text in ("", " 1", "1 ", "+1", "1_0", "٣", "1.5", "0x1", "NaN", "one")
        ),
        ({"numberOfOutputs": "3000000000"}, "range"),
        ({"numberOfOutputs": True}, "type"),
        ({"whenUncertain": 99}, "one_of"),
        ({"whenUncertain": 2**53}, "one_of"),
        ({"whenUncertain": -(2**31) - 1}, "one_of"),
        ({"whenUncertain": True}, "one_of"),
    ],
)
def test_what_the_mapping_does_not_know_is_refused(body: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _read(body)
    assert [found.rule for found in caught.value.violations] == [rule]


@given(st.binary(max_size=20), st.booleans(), st.booleans())
def test_bytes_come_in_each_alphabet_of_base64(content: bytes, urlsafe: bool, padded: bool) -> None:
    text = (urlsafe_b64encode if urlsafe else b64encode)(content).decode()
    reader, message = Reader(), images_pb2.PreprocessImageRequest()
    reader.read_json(message, json.dumps({"content": text if padded else text.rstrip("=")}).encode(), "")
    assert (reader.found, message.content) == ([], content)


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


@pytest.mark.parametrize(
    "body",
    [
        {"modelIdentifier": "m", "prompt": "x", "inputImages": [1] * 19_000},
        {f"modelIdentif{number}": 1 for number in range(9_000)},
    ],
    ids=["items", "names"],
)
def test_of_many_faults_a_hundred_are_told_and_the_rest_is_counted(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _read(body)
    assert len(caught.value.violations) == 100
    assert caught.value.details["omitted_violations"] > 8_000
    assert sum("did you mean" in violation.description for violation in caught.value.violations) <= 5


@pytest.mark.parametrize(
    "value",
    [
        dict.fromkeys(map(str, range(2_001)), 1),
        {"a": list(range(2_000))},
        {"a": {"b": [[], {}] * 1_000}},
    ],
    ids=["names", "list", "nested"],
)
def test_an_object_of_free_form_has_a_limited_number_of_values(value: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _read({"parameters": value})
    assert [(violation.field, violation.rule) for violation in caught.value.violations] == [("parameters", "values")]


def test_an_object_of_free_form_may_be_as_large_as_its_limit() -> None:
    assert _read({"parameters": {"a": list(range(1_999))}}).parameters["a"] == list(range(1_999))
