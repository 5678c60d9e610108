"""What CreateGeneration takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from libs.common.catalog import Catalog, load
from libs.common.errors import ErrorCode, FieldViolation, InvalidRequest, NotFound
from sandbox.plan import SHIPPED_CATALOG
from services.gateway.resubmitting import resubmit_usd
from tests.support.requests import validated

CATALOG: Catalog = load(SHIPPED_CATALOG)


def _request(parameters: dict[str, Any] | None = None, **fields: Any) -> gateway_pb2.CreateGenerationRequest:
    given_parameters = Struct()
    given_parameters.update(parameters or {})
    return gateway_pb2.CreateGenerationRequest(
        **{"model_identifier": "flux-pro", "prompt": "a red apple", "parameters": given_parameters, **fields}
    )


def test_defaults_are_applied() -> None:
    found = validated(_request(model_identifier="dall-e-3"), CATALOG)
    assert found.parameters == {
        "size_or_ratio": "1024x1024",
        "quality": "standard",
        "style": "vivid",
        "response_format": "url",
    }
    assert (found.number_of_outputs, found.priority, found.when_uncertain) == (1, 5, "fail")


def test_what_is_given_wins_over_the_defaults() -> None:
    request = _request({"quality": "high"}, model_identifier="gpt-image-1", number_of_outputs=4, priority=9)
    found = validated(request, CATALOG)
    assert (found.parameters["quality"], found.number_of_outputs, found.priority) == ("high", 4, 9)


def test_a_whole_number_stays_whole_through_the_struct() -> None:
    assert validated(_request({"seed": 42}), CATALOG).parameters["seed"] == 42


def test_only_a_request_consents_to_a_second_payment_and_is_told_its_price() -> None:
    plain = validated(_request(), CATALOG)
    request = _request(when_uncertain=gateway_pb2.UNCERTAIN_SUBMIT_POLICY_RESUBMIT, fallback_models=["dall-e-3"])
    resubmitting = validated(request, CATALOG)
    assert (plain.when_uncertain, resubmit_usd(plain, CATALOG)) == ("fail", 0.0)
    assert resubmitting.when_uncertain == "resubmit"
    attempts = {name: CATALOG.provider_of(CATALOG.model(name)).retry.attempts for name in ("flux-pro", "dall-e-3")}
    dearest = max(0.04 * (attempts["flux-pro"] - 1), 0.04 * (attempts["dall-e-3"] - 1))
    assert resubmit_usd(resubmitting, CATALOG) == pytest.approx(dearest)


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound) as caught:
        validated(_request(model_identifier="flux-prp"), CATALOG)
    assert caught.value.violations[0].field == "model_identifier"


@pytest.mark.parametrize(
    ("fields", "parameters", "field"),
    [
        pytest.param({"prompt": ""}, {}, "prompt", id="empty prompt"),
        pytest.param({"prompt": " \n\t"}, {}, "prompt", id="blank prompt"),
        pytest.param({"prompt": "x" * 2_001}, {}, "prompt", id="prompt of 2,001 characters"),
        pytest.param({"prompt": "a\x00b"}, {}, "prompt", id="NUL in the prompt"),
        pytest.param(
            {"model_identifier": "gpt-image-1", "number_of_outputs": 11}, {}, "number_of_outputs", id="11 outputs"
        ),
        pytest.param(
            {"model_identifier": "gpt-image-1", "number_of_outputs": 0}, {}, "number_of_outputs", id="no outputs"
        ),
        pytest.param({"number_of_outputs": 2}, {}, "number_of_outputs", id="more than the model makes"),
        pytest.param({"priority": 10}, {}, "priority", id="priority above 9"),
        pytest.param({"priority": -1}, {}, "priority", id="priority below 0"),
        pytest.param({"input_images": ["file:///etc/passwd"]}, {}, "input_images[0]", id="a file as image"),
        pytest.param(
            {"input_images": ["https://a/1.png"] * 2}, {}, "input_images", id="more images than the model takes"
        ),
        pytest.param({"labels": {"": "x"}}, {}, "labels", id="empty label name"),
        pytest.param({"labels": {"k": "v" * 201}}, {}, "labels.k", id="long label"),
        pytest.param({"labels": {f"k{n}": "v" for n in range(17)}}, {}, "labels", id="17 labels"),
        pytest.param({"user_id": "u" * 201}, {}, "user_id", id="long user id"),
        pytest.param({}, {"seed": -1}, "parameters.seed", id="negative seed"),
        pytest.param({}, {"seed": 1.5}, "parameters.seed", id="half a seed"),
        pytest.param({}, {"seed": "7"}, "parameters.seed", id="seed as text"),
        pytest.param({}, {"seed": float("inf")}, "parameters.seed", id="infinity"),
        pytest.param({}, {"seed": float("nan")}, "parameters.seed", id="not a number"),
        pytest.param({}, {"size_or_ratio": "1000x1000"}, "parameters.size_or_ratio", id="size not a multiple of 32"),
        pytest.param({}, {"size_or_ratio": "5:1"}, "parameters.size_or_ratio", id="unknown ratio"),
        pytest.param({}, {"sed": 1}, "parameters.sed", id="unknown parameter"),
        pytest.param({}, {f"p{n}": 1 for n in range(101)}, "parameters", id="101 parameters"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_path(
    fields: dict[str, Any], parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated(_request(parameters, **fields), CATALOG)
    assert [violation.field.startswith(field) for violation in caught.value.violations] == [True]
    expected = ErrorCode.INVALID_PARAMETERS if field.startswith("parameters") else ErrorCode.INVALID_REQUEST
    assert caught.value.code is expected


def test_all_violations_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated(_request({"seed": -1, "x": 1}, prompt="", priority=77), CATALOG)
    assert {violation.field for violation in caught.value.violations} == {
        "prompt",
        "priority",
        "parameters.seed",
        "parameters.x",
    }


def test_a_misspelt_parameter_is_told_what_it_may_have_been() -> None:
    with pytest.raises(InvalidRequest, match="did you mean seed"):
        validated(_request({"sed": 1}), CATALOG)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@given(
    prompt=st.text(max_size=50),
    outputs=st.integers(-(2**31), 2**31 - 1),
    images=st.lists(st.text(max_size=40), max_size=3),
    names=st.dictionaries(st.sampled_from(["seed", "size_or_ratio", "quality", "style", "n"]), _VALUES, max_size=4),
)
def test_whatever_comes_is_taken_or_refused_with_reasons(
    prompt: str, outputs: int, images: list[str], names: dict[str, Any]
) -> None:
    request = _request(names, prompt=prompt, number_of_outputs=outputs, input_images=images)
    violations: tuple[FieldViolation, ...] = ()
    taken = None
    try:
        taken = validated(request, CATALOG)
    except InvalidRequest as error:
        violations = error.violations
    assert (taken is None) == bool(violations)
    assert taken is None or (taken.prompt.strip() and taken.number_of_outputs == 1)


def test_fallbacks_get_the_parameters_that_they_know() -> None:
    request = _request(
        {"size_or_ratio": "1024x1024", "safety_tolerance": 5}, fallback_models=["dall-e-3", "flux-dev-fal"]
    )
    found = validated(request, CATALOG)
    assert [fallback.model_identifier for fallback in found.fallbacks] == ["dall-e-3", "flux-dev-fal"]
    assert found.fallbacks[0].provider_id == "tuzi"
    assert found.fallbacks[0].parameters["size_or_ratio"] == "1024x1024"
    assert "safety_tolerance" not in found.fallbacks[0].parameters
    assert found.fallbacks[0].expected_cost_usd == pytest.approx(0.04)
    assert found.expected_cost_usd == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("names", "field", "words"),
    [
        (["flux-prp"], "fallback_models[0]", "there is no model"),
        (["dall-e-3", "sora-2"], "fallback_models[1]", "another kind of media"),
        (["flux-pro"], "fallback_models[0]", "the model itself"),
        (["dall-e-3"] * 11, "fallback_models", "at most 10"),
    ],
)
def test_a_fallback_that_does_not_fit_is_refused(names: list[str], field: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated(_request(fallback_models=names), CATALOG)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert words in caught.value.violations[0].description


def test_the_catalogs_fallbacks_that_do_not_fit_are_left_out() -> None:
    model = CATALOG.models["flux-pro"].model_copy(update={"fallbacks": ("dall-e-3", "flux-dev-fal")})
    catalog = Catalog(CATALOG.providers, {**CATALOG.models, "flux-pro": model})
    pictures = ["https://example.com/1.png"]
    assert [found.model_identifier for found in validated(_request(), catalog).fallbacks] == [
        "dall-e-3",
        "flux-dev-fal",
    ]
    # Neither of the two takes input images.
    assert validated(_request(input_images=pictures), catalog).fallbacks == ()
