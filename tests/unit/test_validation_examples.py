"""For each rule an example that is refused with its path, and the neighbour that passes."""

from __future__ import annotations

from typing import Any

import pytest
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.struct_pb2 import Struct

from libs.common.catalog import load
from libs.common.errors import InvalidRequest
from libs.common.rpc.structs import from_struct
from libs.common.validation.common import json_schema
from sandbox.plan import SHIPPED_CATALOG
from tests.support.requests import validated

CATALOG = load(SHIPPED_CATALOG)
PNG = "data:image/png;base64,aGk="

# The model, what is refused, what passes, the path, and the rule.
RULES: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("flux-pro", {"prompt": ""}, {"prompt": "x"}, "prompt", "string_too_short"),
    ("flux-pro", {"prompt": " \n"}, {"prompt": " x"}, "prompt", "value_error"),
    ("flux-pro", {"prompt": "x" * 2_001}, {"prompt": "x" * 2_000}, "prompt", "string_too_long"),
    (
        "flux-pro",
        {"input_images": ["ftp://a/b.png"]},
        {"input_images": ["https://a/b.png"]},
        "input_images[0]",
        "value_error",
    ),
    (
        "flux-pro",
        {"input_images": ["data:image/svg+xml;base64,aGk="]},
        {"input_images": [PNG]},
        "input_images[0]",
        "value_error",
    ),
    (
        "flux-pro",
        {"input_images": ["data:image/png;base64,***"]},
        {"input_images": [PNG]},
        "input_images[0]",
        "value_error",
    ),
    ("gpt-image-1", {"number_of_outputs": 0}, {"number_of_outputs": 1}, "number_of_outputs", "greater_than_equal"),
    ("gpt-image-1", {"number_of_outputs": 11}, {"number_of_outputs": 10}, "number_of_outputs", "less_than_equal"),
    ("flux-pro", {"seed": -1}, {"seed": 0}, "parameters.seed", "greater_than_equal"),
    ("flux-pro", {"size_or_ratio": "2:1"}, {"size_or_ratio": "21:9"}, "parameters.size_or_ratio", "value_error"),
    (
        "flux-pro",
        {"size_or_ratio": "1024 x 768"},
        {"size_or_ratio": "1024x768"},
        "parameters.size_or_ratio",
        "value_error",
    ),
    ("kling-v1-6", {"size_or_ratio": "4:3"}, {"size_or_ratio": "1280x720"}, "parameters.size_or_ratio", "value_error"),
    ("flux-pro", {"safety_tolerance": 7}, {"safety_tolerance": 6}, "parameters.safety_tolerance", "less_than_equal"),
    (
        "flux-pro",
        {"safety_tolerance": -1},
        {"safety_tolerance": 0},
        "parameters.safety_tolerance",
        "greater_than_equal",
    ),
    (
        "flux-pro",
        {"prompt_upsampling": "yes"},
        {"prompt_upsampling": True},
        "parameters.prompt_upsampling",
        "bool_type",
    ),
    ("dall-e-3", {"quality": "best"}, {"quality": "hd"}, "parameters.quality", "literal_error"),
    ("dall-e-3", {"style": "bold"}, {"style": "natural"}, "parameters.style", "literal_error"),
    ("kling-v1-6", {"duration": 6}, {"duration": 10}, "parameters.duration", "literal_error"),
    ("kling-v1-6", {"mode": "std"}, {"mode": "standard"}, "parameters.mode", "literal_error"),
    ("pollo-v1-6", {"duration": 31}, {"duration": 30}, "parameters.duration", "less_than_equal"),
    ("pollo-v1-6", {"duration": 0}, {"duration": 1}, "parameters.duration", "greater_than_equal"),
    ("pollo-v1-6", {"generateAudio": "no"}, {"generateAudio": False}, "parameters.generateAudio", "bool_type"),
    (
        "pollo-v1-6",
        {"negative_prompt": "x" * 2_001},
        {"negative_prompt": "x"},
        "parameters.negative_prompt",
        "string_too_long",
    ),
    ("flux-schnell", {"aspect_ratio": "4:3"}, {"aspect_ratio": "9:16"}, "parameters.aspect_ratio", "literal_error"),
    ("flux-schnell", {"duration": 0}, {"duration": 5}, "parameters.duration", "greater_than_equal"),
    ("sora-2", {"duration": 5}, {"duration": 8}, "parameters.duration", "literal_error"),
    ("flux-pro", {"seeds": 1}, {"seed": 1}, "parameters.seeds", "extra_forbidden"),
]
_FIELDS = {"prompt", "input_images", "number_of_outputs"}


def _request(model: str, given: dict[str, Any]) -> gateway_pb2.CreateGenerationRequest:
    parameters = Struct()
    parameters.update({name: value for name, value in given.items() if name not in _FIELDS})
    fields = {"prompt": "a red apple"} | {name: value for name, value in given.items() if name in _FIELDS}
    return gateway_pb2.CreateGenerationRequest(model_identifier=model, parameters=parameters, **fields)


@pytest.mark.parametrize(("model", "bad", "good", "path", "rule"), RULES, ids=[f"{r[0]} {r[3]} {r[4]}" for r in RULES])
def test_the_bad_one_is_refused_and_its_neighbour_passes(
    model: str, *, bad: dict[str, Any], good: dict[str, Any], path: str, rule: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validated(_request(model, bad), CATALOG)
    assert [(violation.field, violation.rule) for violation in caught.value.violations] == [(path, rule)]
    assert validated(_request(model, good), CATALOG).id


@pytest.mark.parametrize(
    ("model", "defaults"),
    [
        ("flux-pro", {"size_or_ratio": "1024x1024"}),
        ("kling-v1-6", {"size_or_ratio": "16:9", "duration": 5, "mode": "pro"}),
        ("pollo-v1-6", {"size_or_ratio": "16:9", "duration": 8, "generate_audio": True}),
        ("dall-e-3", {"quality": "standard", "style": "vivid"}),
        ("sora-2", {"size_or_ratio": "16:9", "duration": 4}),
    ],
)
def test_defaults_are_applied_and_kept_with_the_request(model: str, defaults: dict[str, Any]) -> None:
    found = validated(_request(model, {}), CATALOG)
    assert found.parameters.items() >= defaults.items()
    assert found.number_of_outputs == 1


def test_an_alias_and_its_own_name_are_both_taken() -> None:
    for name in ("generateAudio", "generate_audio"):
        found = validated(_request("pollo-v1-6", {name: False}), CATALOG)
        assert found.parameters["generate_audio"] is False


def test_what_is_stored_can_be_read_again() -> None:
    for model in CATALOG.models.values():
        stored = validated(_request(model.identifier, {}), CATALOG).parameters
        assert CATALOG.adapter_of(model).parameters.model_validate(stored) == CATALOG.parameters(model, {})


def test_every_model_has_a_schema_for_a_form() -> None:
    for model in CATALOG.models.values():
        schema = json_schema(CATALOG.adapter_of(model).parameters, model.defaults)
        assert schema["type"] == "object"
        assert schema["properties"]
        parameters = Struct()
        parameters.update(schema)
        assert from_struct(parameters)["additionalProperties"] is False
