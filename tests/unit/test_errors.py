from __future__ import annotations

import pytest
from darkroom.common.v1 import common_pb2
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import (
    MAPPINGS,
    MESSAGE_LIMIT,
    ErrorCode,
    FieldViolation,
    GenerationError,
    InvalidRequest,
    NotFound,
)
from libs.common.rpc.messages import error_message


def test_each_code_maps_once() -> None:
    assert set(MAPPINGS) == set(ErrorCode)


def test_the_proto_has_the_same_codes() -> None:
    names = {name.removeprefix("ERROR_CODE_") for name in common_pb2.ErrorCode.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert names == {code.value for code in ErrorCode}


@pytest.mark.parametrize("code", sorted(ErrorCode))
def test_a_stored_error_becomes_a_message(code: ErrorCode) -> None:
    error = GenerationError(code, "why", {"http_status": 500, "nested": {"list": [1, "two", None]}})

    message = error_message(error.to_json())

    assert common_pb2.ErrorCode.Name(message.code) == f"ERROR_CODE_{code}"
    assert message.is_retryable == MAPPINGS[code].is_retryable
    assert message.details["http_status"] == 500


@given(st.text())
def test_a_message_is_bounded(text: str) -> None:
    assert len(GenerationError(ErrorCode.INTERNAL_ERROR, text).message) <= MESSAGE_LIMIT


def test_whether_a_repeat_may_help_can_be_told_against_the_code() -> None:
    assert not GenerationError(ErrorCode.RATE_LIMITED, "for good", is_retryable=False).is_retryable


def test_an_invalid_request_lists_all_that_is_wrong() -> None:
    error = InvalidRequest([FieldViolation("a", "range", "too large"), FieldViolation("b.c", "type", "no text")])
    assert error.message == "a: too large; b.c: no text"
    assert error.details == {"fields": ["a", "b.c"]}


def test_what_is_missing_names_its_field() -> None:
    assert NotFound("id", "There is none.").violations[0].field == "id"
