"""From a message to an experiment, or to every rule that it breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bench.experiments.simulated import NOW
from libs.common.database.states import AllocationMode, MetricRole
from libs.common.errors import InvalidRequest
from services.experiments.requests import experiment_of
from services.experiments.shares import changed_weights
from tests.support.experiments import CHEAPER, create_request
from tests.unit.test_create_request import CATALOG
from tests.unit.test_experiment_decisions import experiment

MINIMIZE = {"goal": "METRIC_GOAL_MINIMIZE"}
PRIMARY = {"name": "avg_cost", "type": "METRIC_ROLE_PRIMARY", **MINIMIZE}
PRO, DEV = CHEAPER["variants"]


def variant(**changes: Any) -> dict[str, Any]:
    """The variants of a request, the second one changed."""
    return {"variants": [PRO, {**DEV, **changes}]}


def metric(**changes: Any) -> dict[str, Any]:
    """The metrics of a request, the only one changed."""
    return {"metrics": [{**PRIMARY, **changes}]}


def shares(*percents: Any) -> dict[str, Any]:
    """A traffic allocation."""
    return {"trafficAllocation": {f"variant_{place}": percent for place, percent in enumerate(percents)}}


def factorial(*factors: dict[str, Any], reduction: int = 0, **changes: Any) -> dict[str, Any]:
    """A request whose variants are made of factors."""
    return {"variants": [], "factorial": {"factors": list(factors), "reduction": reduction}, **changes}


MODELS = {"name": "model", "varies": "model", "levels": ["flux-pro", "flux-dev"]}
SEEDS = {"name": "seed", "varies": "parameters.seed", "levels": [1, 2]}
PROMPTS = {"name": "prompt", "varies": "prompt", "levels": ["{prompt}", "{prompt}, sharp"]}


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"name": "  "}, "name", "required"),
        ({"name": "x" * 201}, "name", "length"),
        ({"description": "x\u0000"}, "description", "length"),
        ({"hypothesis": "x" * 2_001}, "hypothesis", "length"),
        ({"layer": "a b"}, "layer", "format"),
        ({"variants": [PRO]}, "variants", "length"),
        ({"variants": [{**PRO, "name": f"v{number}"} for number in range(21)]}, "variants", "length"),
        (variant(name="pro"), "variants[0].name", "unique"),
        (variant(name=""), "variants[1].name", "unique"),
        (variant(modelIdentifier="nothing"), "variants[1].model_identifier", "exists"),
        (variant(modelIdentifier="kling-v1-6"), "variants", "media_type"),
        (variant(prompt="x" * 2_001), "variants[1].prompt", "length"),
        (variant(parameters={"sede": 1}), "variants[1].parameters.sede", "extra_forbidden"),
        (variant(parameters={"seed": "x"}), "variants[1].parameters.seed", "int_type"),
        (shares(50.0, 49.0), "traffic_allocation", "sum"),
        (shares(99.999, 0.001), "traffic_allocation['variant_0']", "percent"),
        (shares(100.0, 0.0), "traffic_allocation['variant_1']", "percent"),
        (shares(100.0), "traffic_allocation['variant_1']", "percent"),
        (shares(50.0, 25.0, 25.0), "traffic_allocation['variant_2']", "unknown"),
        (shares("NaN", 50.0), "traffic_allocation['variant_0']", "percent"),
        ({"metrics": []}, "metrics", "length"),
        ({"metrics": [PRIMARY, {**PRIMARY, "name": "user_rating"}]}, "metrics", "primary"),
        ({"metrics": [{**PRIMARY, "type": "METRIC_ROLE_GUARDRAIL"}]}, "metrics", "primary"),
        ({"metrics": [PRIMARY, {**PRIMARY, "type": "METRIC_ROLE_SECONDARY"}]}, "metrics[1].name", "unique"),
        (metric(name="1x"), "metrics[0].name", "format"),
        (metric(type="METRIC_ROLE_UNSPECIFIED"), "metrics[0].type", "one_of"),
        (metric(goal="METRIC_GOAL_UNSPECIFIED"), "metrics[0].goal", "one_of"),
        (metric(name="p95_duration"), "metrics[0].type", "primary"),
        (metric(margin=0.1), "metrics[0].margin", "guardrail"),
        (metric(margin=-0.1), "metrics[0].margin", "range"),
        ({"targeting": {"modelIdentifiers": ["nothing"]}}, "targeting.model_identifiers[0]", "exists"),
        ({"targeting": {"modelIdentifiers": ["kling-v1-6"]}}, "targeting.model_identifiers[0]", "media_type"),
        ({"targeting": {"modelIdentifiers": ["flux-pro"] * 51}}, "targeting.model_identifiers", "length"),
        ({"targeting": {"apiKeyIds": ["key_1"] * 101}}, "targeting.api_key_ids", "length"),
        ({"targeting": {"labels": {"": "x"}}}, "targeting.labels", "length"),
        ({"targeting": {"labels": {f"k{number}": "" for number in range(17)}}}, "targeting.labels", "length"),
        ({"targeting": {"trafficPercent": 0}}, "targeting.traffic_percent", "percent"),
        ({"targeting": {"trafficPercent": 33.333}}, "targeting.traffic_percent", "percent"),
        ({"minimumDetectableEffect": 0}, "minimum_detectable_effect", "range"),
        ({"minimumDetectableEffect": "Infinity"}, "minimum_detectable_effect", "range"),
        ({"minimumDetectableEffect": "NaN"}, "minimum_detectable_effect", "range"),
        (metric(margin="NaN"), "metrics[0].margin", "range"),
        ({"plannedSamples": 99}, "planned_samples", "range"),
        ({"stopAt": "2020-01-01T00:00:00Z"}, "stop_at", "future"),
        ({"adaptation": {"mode": 7}}, "adaptation.mode", "one_of"),
        ({"variants": [], "adaptation": {"mode": 2}}, "variants", "length"),
        ({"adaptation": {"mode": 2, "floorPercent": 51}}, "adaptation.floor_percent", "range"),
        ({"adaptation": {"mode": 2, "floorPercent": 0.5}}, "adaptation.floor_percent", "range"),
        (factorial(), "factorial.factors", "length"),
        (factorial(MODELS, {**MODELS, "name": "again"}), "factorial.factors", "unique"),
        (factorial({**MODELS, "name": "a b"}), "factorial.factors[0].name", "format"),
        (factorial({**MODELS, "varies": "size"}), "factorial.factors[0].varies", "one_of"),
        (factorial({**MODELS, "levels": ["flux-pro"]}), "factorial.factors[0].levels", "length"),
        (factorial({**MODELS, "levels": ["flux-pro", "flux-pro"]}), "factorial.factors[0].levels", "unique"),
        (factorial({**MODELS, "levels": ["flux-pro", 7]}), "factorial.factors[0].levels", "type"),
        (factorial({**MODELS, "levels": ["flux-pro", "nothing"]}), "variants[1].model_identifier", "exists"),
        (factorial(MODELS, SEEDS, reduction=3), "factorial.reduction", "range"),
        (factorial({**SEEDS, "levels": [*range(10)]}, {**PROMPTS, "levels": ["a", "b", "c"]}), "factorial", "variants"),
        (factorial(MODELS, variants=[PRO, DEV]), "variants", "length"),
        (factorial(SEEDS), "variants[0].model_identifier", "exists"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_told_by_its_path(changes: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        experiment_of(create_request(**changes), CATALOG)
    assert (field, rule) in {(fault.field, fault.rule) for fault in caught.value.violations}


def test_a_variant_may_be_rolled_out() -> None:
    assert changed_weights(shares(0.0, 100.0)["trafficAllocation"], experiment(2)) == [0, 10_000]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as caught:
        experiment_of(create_request(name="", layer="!", metrics=[], plannedSamples=1), CATALOG)
    assert {fault.field for fault in caught.value.violations} == {"name", "layer", "metrics", "planned_samples"}


def test_what_is_not_said_has_its_default() -> None:
    new = experiment_of(create_request(), CATALOG)
    assert new.weights == [5_000, 5_000]
    assert new.target.model_identifiers == ["flux-pro"]
    assert new.target.traffic_buckets == 10_000
    assert (new.mode, new.floor_buckets) == (AllocationMode.FIXED, 500)
    assert [found.role for found in new.metrics] == [MetricRole.PRIMARY, MetricRole.GUARDRAIL]
    assert len({variant.id for variant in new.variants}) == 2
    assert new.salt != experiment_of(create_request(), CATALOG).salt


def test_percents_become_buckets() -> None:
    new = experiment_of(create_request(trafficAllocation={"variant_0": 33.33, "variant_1": 66.67}), CATALOG)
    assert new.weights == [3_333, 6_667]
    assert new.buckets.count(1) == 6_667


@pytest.mark.parametrize(
    ("percents", "field", "rule"),
    [
        ((60.0, 40.0, 0.0), "", ""),
        ((60.0, 40.0), "", ""),
        ((50.0, 30.0, 20.0), "traffic_allocation['variant_2']", "paused"),
        ((60.0, 41.0), "traffic_allocation", "sum"),
        ((60.001, 39.999), "traffic_allocation['variant_0']", "percent"),
    ],
)
def test_shares_change_within_their_rules(percents: tuple[float, ...], field: str, rule: str) -> None:
    made = experiment(3)
    gone = replace(made.variants[2], paused_at=NOW, pause_reason="It broke.")
    record = replace(made, variants=[*made.variants[:2], gone])
    allocation = shares(*percents)["trafficAllocation"]
    if not rule:
        assert changed_weights(allocation, record) == [6_000, 4_000, 0]
        return
    with pytest.raises(InvalidRequest) as caught:
        changed_weights(allocation, record)
    assert [(fault.field, fault.rule) for fault in caught.value.violations][:1] == [(field, rule)]


def test_all_combinations_of_factors() -> None:
    new = experiment_of(create_request(**factorial(MODELS, SEEDS, PROMPTS)), CATALOG)
    assert [variant.name for variant in new.variants][:2] == [
        "model=flux-pro, seed=1, prompt={prompt}", "model=flux-pro, seed=1, prompt={prompt}, sharp",
    ]  # fmt: skip
    last = new.variants[-1]
    assert (last.model_identifier, last.parameters, last.prompt) == ("flux-dev", {"seed": 2}, "{prompt}, sharp")
    assert last.levels == {"model": "flux-dev", "seed": "2", "prompt": "{prompt}, sharp"}
    assert sum(new.weights) == 10_000
    assert len(new.variants) == 8


def test_half_of_the_combinations_is_balanced_and_begins_with_the_control() -> None:
    new = experiment_of(create_request(**factorial(MODELS, SEEDS, PROMPTS, reduction=2)), CATALOG)
    assert len(new.variants) == 4
    assert new.variants[0].levels == {"model": "flux-pro", "seed": "1", "prompt": "{prompt}"}
    for factor in ("model", "seed", "prompt"):
        levels = [variant.levels[factor] for variant in new.variants]
        assert {levels.count(level) for level in levels} == {2}


def test_factors_change_a_variant_that_is_given() -> None:
    base = {**DEV, "prompt": "{prompt}, in ink"}
    new = experiment_of(create_request(**factorial(SEEDS, variants=[base])), CATALOG)
    assert [(one.model_identifier, one.prompt, one.parameters["seed"]) for one in new.variants] == [
        ("flux-dev", "{prompt}, in ink", 1), ("flux-dev", "{prompt}, in ink", 2),
    ]  # fmt: skip
