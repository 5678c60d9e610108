"""Errors are bounded wherever they travel: in violations, in details, and as headers of an RPC's answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from libs.common.details import CUT, bounded
from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest
from libs.common.rpc.errors import to_status

# What gRPC's clients take in the headers of an answer, by default. Source: GRPC_ARG_MAX_METADATA_SIZE.
_HEADERS_LIMIT_BYTES = 8 * 1024
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3_000),
    lambda inner: st.lists(inner, max_size=200) | st.dictionaries(st.text(max_size=300), inner, max_size=20),
    max_leaves=30,
)


def _violations(number: int, text: str = "x") -> list[FieldViolation]:
    return [FieldViolation(f"inputImages[{place}]{text}", "url", f"must be a URL{text}") for place in range(number)]


def test_at_most_a_hundred_violations_are_kept_and_the_rest_is_counted() -> None:
    error = InvalidRequest(_violations(1_000), omitted=5)
    assert len(error.violations) == 100
    assert error.details["omitted_violations"] == 905
    assert error.message.endswith("more")
    listed = error.message.count("must be a URL")
    assert int(error.message.split()[-2]) == 1_005 - listed
    assert len(error.message) <= 1_000


def test_few_violations_are_all_listed() -> None:
    error = InvalidRequest(_violations(2))
    assert error.message == "inputImages[0]x: must be a URLx; inputImages[1]x: must be a URLx"
    assert error.details == {"fields": ["inputImages[0]x", "inputImages[1]x"]}


@given(details=st.dictionaries(st.text(max_size=300), _VALUES, max_size=30), limit=st.integers(100, 9_000))
def test_details_never_exceed_their_limit(details: dict[str, Any], limit: int) -> None:
    kept = bounded(details, limit)
    assert len(json.dumps(kept, ensure_ascii=False).encode()) <= limit + 2 * len(kept)
    assert kept.keys() <= details.keys() | {CUT}
    if kept.keys() < details.keys():
        assert kept[CUT] is True


def test_small_details_stay_as_they_are() -> None:
    details = {"limitUsd": 1.5, "fields": ["a", "b"], "submissions": [{"id": "sub_1", "at": None}]}
    assert bounded(details, 2_000) == details


@pytest.mark.parametrize("text", ["x", "图", "😀", "%", "\n"])
@pytest.mark.parametrize("number", [1, 100, 1_000])
def test_an_error_fits_into_the_headers_of_an_answer(text: str, number: int) -> None:
    error = InvalidRequest(_violations(number, text * 300))
    error.details |= {"reply": text * 5_000, "numbers": list(range(5_000))}
    status = rpc_status.to_status(to_status(error))
    # As gRPC writes them: the message percent-encoded, binary values as base64.
    written = sum(1 if " " <= one <= "~" and one != "%" else 3 * len(one.encode()) for one in status.details)
    (details,) = (value for name, value in status.trailing_metadata if name == "grpc-status-details-bin")
    assert isinstance(details, bytes)
    assert written + len(base64.b64encode(details)) + 200 < _HEADERS_LIMIT_BYTES


def test_an_error_of_usual_size_crosses_whole() -> None:
    error = GenerationError(
        ErrorCode.QUOTA_EXCEEDED, "Too much.", {"limitUsd": 1.0, "usedUsd": 0.9}, violations=_violations(3)
    )
    status = to_status(error)
    assert status.message == "Too much."
    assert len(status.details) == 3
