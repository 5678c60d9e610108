"""A request in an experiment: fit for every variant or for none, and made by its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from darkroom.gateway.v1 import gateway_pb2
from prometheus_client import REGISTRY

from libs.common.catalog import CatalogHolder
from libs.common.database.records_edge import NewRequest
from libs.common.errors import InvalidRequest
from libs.common.experiments.allocation import BUCKETS, Allocations, Running, VariantSpec
from sandbox.plan import SHIPPED_CATALOG
from services.gateway.access import Caller
from services.gateway.experiments.snapshot import Snapshot
from services.gateway.experiments.taking_part import TakingPart
from services.gateway.requests import validate
from tests.unit.test_experiment_allocation import running

CALLER = Caller("key_1", "client", "shop")
PLAIN = VariantSpec("var_a", "a", "flux-pro", "", {})
DEV = VariantSpec("var_b", "b", "flux-dev", "{prompt}, in ink", {"seed": 9})


class _Known:
    """A snapshot as it was set."""

    def __init__(self, experiments: list[Running] | None) -> None:
        self.current = Allocations(experiments, lambda: 0) if experiments is not None else None


def request(prompt: str = "a red apple", **fields: Any) -> gateway_pb2.CreateGenerationRequest:
    """A request for flux-pro by a user."""
    parameters = fields.pop("parameters", {})
    made = gateway_pb2.CreateGenerationRequest(model_identifier="flux-pro", prompt=prompt, **{"user_id": "u", **fields})
    made.parameters.update(parameters)
    return made


def taken(
    message: gateway_pb2.CreateGenerationRequest, *variants: VariantSpec, everyone: int = 1, known: bool = True
) -> NewRequest:
    """What becomes of the message where all users get the variant at place `everyone`."""
    holder = CatalogHolder(SHIPPED_CATALOG)
    experiment = replace(running(), variants=variants or (PLAIN, DEV), buckets=bytes([everyone]) * BUCKETS, version=3)
    snapshot = cast("Snapshot", _Known([experiment] if known else None))
    return TakingPart(snapshot, holder).request_of(
        message, CALLER, lambda made: validate(made, holder.current, caller=CALLER, request_id="req_1")
    )


def counted(outcome: str) -> float:
    """How many requests have had an outcome."""
    return REGISTRY.get_sample_value("darkroom_experiment_requests_total", {"outcome": outcome}) or 0.0


def test_a_variant_replaces_model_prompt_and_parameters() -> None:
    found = taken(request(parameters={"seed": 1, "output_format": "png"})).generation
    assert (found.model_identifier, found.prompt) == ("flux-dev", "a red apple, in ink")
    assert (found.parameters["seed"], found.parameters["output_format"]) == (9, "png")
    assert (found.experiment_id, found.variant_id, found.experiment_version) == ("exp_1", "var_b", 3)
    assert found.requested_model_identifier == "flux-pro"
    assert found.expected_cost_usd == pytest.approx(0.025)


def test_the_control_is_marked_and_left_as_it_is() -> None:
    found = taken(request(), everyone=0).generation
    assert (found.model_identifier, found.prompt, found.variant_id) == ("flux-pro", "a red apple", "var_a")
    assert found.requested_model_identifier is None


def test_a_repeat_is_compared_with_what_was_asked_for() -> None:
    first, second = (taken(request(idempotency_key="k"), everyone=place).fields for place in (0, 1))
    assert first == second != {}


def test_a_prompt_in_the_request_is_not_a_template() -> None:
    braces = VariantSpec("var_b", "b", "flux-pro", "{prompt} {seed} {0}", {})
    assert taken(request("{prompt} %s {0}"), PLAIN, braces).generation.prompt == "{prompt} %s {0} {seed} {0}"


@pytest.mark.parametrize("everyone", [0, 1])
@pytest.mark.parametrize(
    "message",
    [
        request("x" * 1_995),
        request(input_images=["https://example.com/a.png"]),
        request(parameters={"size_or_ratio": "21:9"}),
    ],
    ids=["a longer prompt", "a picture", "a parameter"],
)
def test_what_does_not_fit_one_variant_runs_plain_whichever_it_would_have_got(
    message: gateway_pb2.CreateGenerationRequest, everyone: int
) -> None:
    # A relay that takes neither pictures nor these sizes, and a template that adds to the prompt.
    other = VariantSpec("var_b", "b", "dall-e-3", "{prompt}, in ink", {"size_or_ratio": "no such size"})
    narrow = other if len(message.prompt) < 1_000 else DEV
    before = counted("unfit")
    found = taken(message, PLAIN, narrow, everyone=everyone).generation
    assert (found.model_identifier, found.experiment_id) == ("flux-pro", None)
    assert counted("unfit") == before + 1


def test_fallbacks_of_the_request_lose_the_variants_own_model() -> None:
    found = taken(request(fallback_models=["flux-dev", "flux-pro-ultra"])).generation
    assert found.model_identifier == "flux-dev"
    assert [fallback.model_identifier for fallback in found.fallbacks] == ["flux-pro-ultra"]


def test_an_earlier_result_is_no_outcome_of_a_variant() -> None:
    assert taken(request(reuse_within_seconds=60)).generation.experiment_id is None


def test_without_news_of_experiments_requests_run_plain_and_are_counted() -> None:
    before = counted("unknown")
    assert taken(request(), known=False).generation.experiment_id is None
    assert counted("unknown") == before + 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"prompt": "  "}, "prompt"), ({"labels": {"": "x"}}, "labels"), ({"parameters": {"sede": 1}}, "parameters.sede"),
     ({"number_of_outputs": 11}, "number_of_outputs"), ({"prompt": "x" * 2_001}, "prompt")],
)  # fmt: skip
def test_what_is_wrong_is_told_of_the_request_as_it_came(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        taken(request(**fields))
    assert caught.value.violations[0].field.startswith(field)


def test_what_a_variant_takes_is_remembered_for_its_shape() -> None:
    holder = CatalogHolder(SHIPPED_CATALOG)
    calls: list[str] = []

    def counting(made: gateway_pb2.CreateGenerationRequest) -> NewRequest:
        calls.append(made.model_identifier)
        return validate(made, holder.current, caller=CALLER, request_id="req_1")

    experiment = replace(running(), variants=(PLAIN, DEV))
    part = TakingPart(cast("Snapshot", _Known([experiment])), holder)
    for number in range(5):
        part.request_of(request(f"apple {number}", user_id=f"u{number}"), CALLER, counting)
    # Three times to know that it fits, and then once for each request.
    assert len(calls) == 3 + 5
