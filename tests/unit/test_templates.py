"""What a template and its matrix expand to."""

from __future__ import annotations

from typing import Any

import pytest
from darkroom.gateway.v1 import gateway_pb2
from hypothesis import given
from hypothesis import strategies as st

from libs.common.catalog import load
from libs.common.errors import InvalidRequest
from libs.common.rpc.structs import from_struct, to_struct
from sandbox.plan import ROOT
from services.gateway.batches import expansion
from services.gateway.batches.templates import EXPANDED_LIMIT, Template, read_text, template_of

CATALOG = load(ROOT / "catalog.yaml")


def _template(matrix: dict[str, Any], models: tuple[str, ...] = (), **fields: Any) -> Template:
    parameters = fields.pop("parameters", {})
    message = gateway_pb2.CreateGenerationRequest(**fields)
    if parameters:
        message.parameters.update(parameters)
    return template_of(message, to_struct(matrix), models)


def test_each_combination_makes_a_request_and_the_last_name_changes_first() -> None:
    template = _template(
        {"side": ["left", "right"], "animal": ["cat", "dog"]},
        model_identifier="flux-pro",
        prompt="a {animal} from the {side}",
        labels={"animal": "{animal}"},
        ref="{animal}-{side}",
    )
    made = list(template.requests(CATALOG))
    assert template.count == len(made) == 4
    assert [request.prompt for request in made] == [
        "a cat from the left",
        "a cat from the right",
        "a dog from the left",
        "a dog from the right",
    ]
    assert [request.ref for request in made][:2] == ["cat-left", "cat-right"]
    assert made[3].labels == {"animal": "dog"}


def test_a_parameter_that_is_a_placeholder_alone_takes_the_value_with_its_type() -> None:
    parameters = {"seed": "{seed}", "name": "seed {seed}", "deep": {"list": ["{flag}", "{seed}"]}, "fixed": 3}
    template = _template({"seed": [7, 1.5], "flag": [True]}, model_identifier="flux-pro", parameters=parameters)
    first, second = (from_struct(request.parameters) for request in template.requests(CATALOG))
    assert first == {"seed": 7, "name": "seed 7", "deep": {"list": [True, 7]}, "fixed": 3}
    assert second["name"] == "seed 1.5"


def test_each_of_the_models_gets_the_parameters_that_it_knows() -> None:
    template = _template({}, ("flux-pro", "dall-e-3"), prompt="a cat", parameters={"seed": 1, "quality": "hd"})
    made = list(template.requests(CATALOG))
    assert [request.model_identifier for request in made] == ["flux-pro", "dall-e-3"]
    known = [CATALOG.parameter_names(CATALOG.models[request.model_identifier]) for request in made]
    given_to = [set(from_struct(request.parameters)) for request in made]
    assert given_to == [{"seed", "quality"} & names for names in known]


@given(text=st.text(st.characters(codec="utf-8"), max_size=40), value=st.text(max_size=10))
def test_nothing_but_placeholders_is_filled_in(text: str, value: str) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    (made,) = _template({"x": [value]}, prompt=f"{escaped}{{x}}{escaped}").requests(CATALOG)
    assert made.prompt == f"{text}{value}{text}"


@pytest.mark.parametrize(
    ("matrix", "fields", "faults"),
    [
        pytest.param({}, {}, ["matrix"], id="nothing to fill in"),
        pytest.param({"x": []}, {"prompt": "{x}"}, ["matrix.x"], id="no values"),
        pytest.param({"x": "cat"}, {"prompt": "{x}"}, ["matrix.x"], id="a text is no list"),
        pytest.param({"x": [[1]]}, {"prompt": "{x}"}, ["matrix.x"], id="a list is no value"),
        pytest.param({"X": [1]}, {"prompt": "{X}"}, ["matrix.X"], id="a name that is none"),
        pytest.param({"x": [1]}, {"prompt": "cat"}, ["matrix.x"], id="values that nothing uses"),
        pytest.param({"x": [1]}, {"prompt": "{x} {y}"}, ["template"], id="a placeholder without values"),
        pytest.param({"x": [1]}, {"prompt": "{x} {"}, ["template.prompt"], id="a brace alone"),
        pytest.param({"x": [1]}, {"prompt": "{x} {x.__class__}"}, ["template.prompt"], id="no way into objects"),
        pytest.param({"x": list(range(101)), "y": list(range(100))}, {"prompt": "{x}{y}"}, ["matrix"], id="too many"),
        pytest.param({f"x{n}": [1] for n in range(11)}, {"prompt": "x"}, ["matrix"], id="too many names"),
    ],
)
def test_what_is_wrong_with_it_is_told(matrix: dict[str, Any], fields: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        _template(matrix, **fields)
    assert [violation.field for violation in raised.value.violations] == faults


def test_models_and_a_model_do_not_go_together() -> None:
    with pytest.raises(InvalidRequest, match=r"template\.model_identifier: must not be set beside models"):
        _template({}, ("flux-pro",), model_identifier="flux-pro", prompt="x")
    with pytest.raises(InvalidRequest, match="models: must not name a model twice"):
        _template({}, ("flux-pro", "flux-pro"), prompt="x")


def test_as_many_as_there_may_be_are_taken() -> None:
    assert _template({"x": list(range(EXPANDED_LIMIT))}, prompt="{x}").count == EXPANDED_LIMIT


@pytest.mark.parametrize(
    ("fields", "matrix", "said"),
    [
        ({"prompt": "{a}" * 101}, {"a": ["x"]}, "has 101 placeholders; at most 100"),
        ({"user_id": "{a}" * 100}, {"a": ["x" * 50_000] * 4}, "makes texts of 20000000 characters"),
        ({"prompt": "x" * 1_700 + "{a}{b}"}, {"a": list(range(100)), "b": ["y"] * 100}, "makes texts of 17029000 char"),
        ({"prompt": "{a}", "parameters": {"list": [1.0] * 30}}, {"a": ["x"] * 10_000}, "makes 310000 texts and other"),
    ],
    ids=["placeholders", "one long value", "many requests", "values"],
)
def test_what_would_expand_to_too_much_is_refused_without_being_made(
    fields: dict[str, Any], matrix: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        _template(matrix, model_identifier="", **fields)
    assert [violation.field for violation in refused.value.violations] == ["template"]
    assert said in refused.value.violations[0].description


@given(
    st.lists(st.sampled_from(["{a}", "{b}", "{{", "}}", "x", "\u00e9"]), max_size=8),
    st.lists(st.text("xyz", max_size=3), min_size=1, max_size=3),
)
def test_what_is_computed_of_an_expansion_is_what_it_has(parts: list[str], values: list[str]) -> None:
    axes = {"a": values, "b": ["", "long", "er"]}
    prompt = "{a}{b}" + "".join(parts)
    template = _template(axes, prompt=prompt)
    made = sum(len(request.prompt) for request in template.requests(CATALOG))
    text = read_text("prompt", prompt, [])
    lengths = {name: [len(value) for value in axes[name]] for name in axes}
    assert expansion.characters(text, lengths, template.count) == made


def test_a_text_of_braces_is_one_fault() -> None:
    with pytest.raises(InvalidRequest) as refused:
        _template({"a": ["x"]}, prompt="{a}" + "{" * 100_001)
    assert len(refused.value.violations) == 1
