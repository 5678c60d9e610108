"""From OpenAI's fields to ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.catalog import Catalog, load
from libs.common.errors import InvalidRequest, NotFound
from sandbox.plan import SHIPPED_CATALOG
from services.gateway.openai.requests import AskedImages, AskedVideo, message_of, read

CATALOG = load(SHIPPED_CATALOG)


@pytest.mark.parametrize(
    ("model", "size", "name", "value"),
    [
        ("flux-pro", "1024x768", "size_or_ratio", "1024x768"),
        ("flux-pro", "7x7", "size_or_ratio", "7x7"),
        ("flux-pro", "16:9", "size_or_ratio", "16:9"),
        ("flux-schnell", "1280x720", "aspect_ratio", "16:9"),
        ("flux-schnell", "720x1280", "aspect_ratio", "9:16"),
        ("flux-schnell", "1024x1024", "aspect_ratio", "1:1"),
        ("flux-schnell", "500x100", "aspect_ratio", "5:1"),
    ],
)
def test_a_size_is_told_in_the_models_words(model: str, size: str, name: str, value: str) -> None:
    message = message_of(AskedImages(model=model, prompt="x", size=size), CATALOG)
    assert message.parameters[name] == value


@pytest.mark.parametrize("size", ["auto", "", None])
def test_no_size_is_the_models_own(size: str | None) -> None:
    assert not message_of(AskedImages(model="flux-pro", prompt="x", size=size), CATALOG).parameters.fields


def test_what_the_model_has_no_word_for_is_left_out_and_the_unknown_goes_through() -> None:
    asked = read(AskedImages, {"model": "flux-pro", "prompt": "x", "quality": "high", "seed": 7, "sead": 8})
    assert {name: value.number_value for name, value in message_of(asked, CATALOG).parameters.fields.items()} == {
        "seed": 7, "sead": 8,
    }  # fmt: skip
    kept = read(AskedImages, {"model": "gpt-image-1", "prompt": "x", "quality": "high"})
    assert message_of(kept, CATALOG).parameters["quality"] == "high"


def test_bytes_of_images_that_stay_with_the_provider_are_refused_before_anything_is_made() -> None:
    provider = CATALOG.provider_of(CATALOG.model("dall-e-3"))
    storage = provider.storage.model_copy(update={"upload_to_s3": False})
    providers = {**CATALOG.providers, provider.id: provider.model_copy(update={"storage": storage})}
    unstored = Catalog(providers, CATALOG.models)
    asked = AskedImages(model="dall-e-3", prompt="x", response_format="b64_json")
    with pytest.raises(InvalidRequest) as caught:
        message_of(asked, unstored)
    assert [fault.field for fault in caught.value.violations] == ["response_format"]
    assert message_of(asked, CATALOG).prompt == "x"
    assert message_of(asked.model_copy(update={"response_format": "url"}), unstored).prompt == "x"


@pytest.mark.parametrize("asked", [AskedImages(model="sora-2", prompt="x"), AskedVideo(model="flux-pro", prompt="x")])
def test_a_model_that_makes_something_else_is_refused_before_anything_is_made(asked: AskedImages | AskedVideo) -> None:
    with pytest.raises(InvalidRequest) as caught:
        message_of(asked, CATALOG)
    assert [fault.field for fault in caught.value.violations] == ["model_identifier"]


def test_seconds_are_a_duration() -> None:
    asked = read(AskedVideo, {"model": "sora-2", "prompt": "x", "seconds": "8"})
    assert message_of(asked, CATALOG).parameters["duration"] == 8


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800") | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["prompt", "n", "size", "user", "seconds", "quality", "response_format", "stream", "seed"])


@given(
    kind=st.sampled_from([AskedImages, AskedVideo]),
    values=st.dictionaries(NAMES | st.text(max_size=8), ANYTHING, max_size=5),
    model=st.sampled_from(["flux-pro", "kling-v1-6", "sora-2", "nope"]),
)
def test_whatever_comes_becomes_a_message_or_is_refused(kind: Any, values: dict[str, Any], model: str) -> None:
    sent = json.loads(json.dumps({**values, "model": model}))
    try:
        message_of(read(kind, sent), CATALOG).SerializeToString()
    except (InvalidRequest, NotFound) as error:
        assert error.violations
