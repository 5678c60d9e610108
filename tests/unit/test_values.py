"""Ids, structs, keys, Retry-After: small values with rules of their own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.adapters.replies import RETRY_AFTER_LIMIT_SECONDS, retry_after
from libs.common.ids import new_id
from libs.common.rpc.context import begin_request
from libs.common.rpc.structs import from_struct, to_struct
from libs.common.storage.objects import object_key
from libs.common.validation.image import RATIOS, explicit_size, size_for_ratio

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_ids_are_prefixed_and_differ() -> None:
    made = {new_id("gen") for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(len(found) == 30 and found.startswith("gen_") for found in made)


@given(st.dictionaries(st.text(max_size=8), _JSON, max_size=4))
def test_json_survives_the_struct(values: dict[str, Any]) -> None:
    assert from_struct(to_struct(values)) == values


def test_a_key_follows_from_the_generation_and_its_day_in_utc() -> None:
    created_at = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=5)))
    assert object_key("flux", created_at, "gen_1", 2, "png") == "flux/2026/02/28/gen_1/2.png"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7),
        ("1.5", 1.5),
        ("-3", 0),
        ("nan", 0),
        ("inf", RETRY_AFTER_LIMIT_SECONDS),
        ("999999999", RETRY_AFTER_LIMIT_SECONDS),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    found = retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=60)))
    assert found == pytest.approx(60, abs=3)


@pytest.mark.parametrize("given_id", ["a b", "x" * 101, "", "a\nb", None])
def test_an_indecent_request_id_is_replaced(given_id: str | None) -> None:
    assert begin_request(given_id).startswith("req_")


def test_a_decent_request_id_is_kept() -> None:
    assert begin_request("trace-7:1.2_x") == "trace-7:1.2_x"


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_ratio_becomes_a_size_near_to_it(ratio: str) -> None:
    size = size_for_ratio(ratio, pixels=1024**2, multiple=32, least=256, most=1_440)
    across, down = map(int, ratio.split(":"))
    assert size.width % 32 == size.height % 32 == 0
    assert 256 <= min(size) <= max(size) <= 1_440
    assert size.width / size.height == pytest.approx(across / down, rel=0.12)


@pytest.mark.parametrize(("text", "size"), [("1024x768", (1024, 768)), ("16:9", None), ("0x10", None), ("10x", None)])
def test_explicit_sizes(text: str, size: tuple[int, int] | None) -> None:
    assert explicit_size(text) == size
