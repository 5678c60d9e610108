"""JSON from outside: what is within the bounds is read as Python's parser reads it, the rest is refused quickly."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.bounded_json import VALUES_LIMIT, check_bounds, loads

_SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    _SCALARS | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=40,
)


@given(value=_VALUES, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_what_is_within_the_bounds_is_read_as_it_was_written(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    assert loads(json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(b"[" + b"1," * VALUES_LIMIT + b"1]", "20,000 values", id="numbers"),
        pytest.param(b"[" + b'"",' * 1_000_000 + b'""]', "20,000 values", id="strings"),
        pytest.param(b"{" + b'"a":1,' * 500_000 + b'"a":1}', "20,000 values", id="keys"),
        pytest.param(b'["' + b'\\\\","' * 500_000 + b'"]', "20,000 values", id="strings that end with a backslash"),
        pytest.param(b"[" * 33 + b"]" * 33, "32 deep", id="lists"),
        pytest.param(b'{"a":' * 33 + b"1" + b"}" * 33, "32 deep", id="objects"),
        pytest.param(b"[" * 5_000_000, "20,000 values", id="open brackets"),
        pytest.param(b"]" * 5_000_000, "32 deep", id="closing brackets"),
        pytest.param(b"0." + b"1" * 5_000_000, "too many digits", id="a float of five million digits"),
        pytest.param(b'{"a":1,"b":2,"a":3}', "'a' is given twice", id="a key twice"),
        pytest.param(b'{"x":[{"a":1,"\\u0061":3}]}', "'a' is given twice", id="a key twice, once escaped"),
        pytest.param(b"[NaN]", "NaN is no JSON", id="NaN"),
        pytest.param('["ä"]'.encode("utf-16"), "not UTF-8", id="UTF-16"),
    ],
)
def test_what_is_not_is_refused_without_being_built(text: bytes, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=reason):
            loads(text)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + 8 * 1024**2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("inside", ['","', "[[[[", '\\",\\"', "\\\\", "{}{}"])
def test_what_stands_within_a_string_is_not_counted(inside: str) -> None:
    text = json.dumps([inside * VALUES_LIMIT]).encode()
    check_bounds(text)
    assert loads(text) == [inside * VALUES_LIMIT]
