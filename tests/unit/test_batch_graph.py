"""What of a batch waits for what: names become places, and what cannot be is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from darkroom.gateway.v1 import gateway_pb2
from hypothesis import given
from hypothesis import strategies as st

from libs.common.database.records import ImageFrom
from services.gateway.batches.graph import Graph
from tests.support.rows import new_generation


def _graph(requests: Sequence[Mapping[str, Any]]) -> tuple[Graph, list[str]]:
    """A graph of requests, `{"ref": …, "needs": […], "images": {ref: output}, …}`, and what is wrong with each."""
    graph, faults = Graph(), []
    for index, given_fields in enumerate(requests):
        fields = dict(given_fields)
        images = fields.pop("images", {})
        message = gateway_pb2.CreateGenerationRequest(
            ref=fields.pop("ref", ""),
            depends_on=fields.pop("needs", ()),
            images_from=[gateway_pb2.OutputReference(**{"from": ref, "output": n}) for ref, n in images.items()],
            on_failure=fields.pop("on_failure", 0),
        )
        made = new_generation(images_from=tuple(ImageFrom(ref, n) for ref, n in images.items()), **fields)
        faults += [f"{index} {fault.field}: {fault.description}" for fault in graph.add(index, message, made)]
    return graph, faults


def _faults(requests: Sequence[Mapping[str, Any]], *, is_parallel: bool = True) -> list[str]:
    graph, found = _graph(requests)
    _, others = graph.resolve(is_parallel=is_parallel)
    return found + [f"{index} {fault.field}: {fault.description}" for index, fault in others]


@pytest.mark.parametrize(
    ("requests", "faults"),
    [
        pytest.param([{"ref": "a"}, {"needs": ["a"]}], [], id="one after another"),
        pytest.param([{"needs": ["b"]}, {"ref": "b"}], [], id="what is needed may come later"),
        pytest.param(
            [{"ref": "sky"}, {"needs": ["skye"]}],
            ["1 depends_on[0]: there is no request with the ref 'skye'; did you mean sky?"],
            id="an unknown ref",
        ),
        pytest.param(
            [{"ref": "a"}, {"ref": "a"}], ["1 ref: a is the ref of requests[0] already"], id="a ref that is taken"
        ),
        pytest.param(
            [{"ref": "a b"}],
            ["0 ref: must have 1 to 64 letters, digits, dots, hyphens or underscores"],
            id="a ref that is none",
        ),
        pytest.param(
            [{"ref": "a", "needs": ["a"]}], ["0 depends_on: runs in a circle: a → a"], id="one that waits for itself"
        ),
        pytest.param(
            [{"ref": "a", "needs": ["b"]}, {"ref": "b", "needs": ["c"]}, {"ref": "c", "needs": ["a"]}],
            ["0 depends_on: runs in a circle: a → b → c → a"],
            id="a circle",
        ),
        pytest.param(
            [{"ref": "a", "needs": ["b"]}, {"ref": "b", "needs": ["c"]}, {"ref": "c", "needs": ["b"]}],
            ["1 depends_on: runs in a circle: b → c → b"],
            id="a circle with a way into it, which is no part of it",
        ),
        pytest.param(
            [{"ref": "film", "media_type": "video"}, {"images": {"film": 0}}],
            ["1 images_from[0].from: film makes no image"],
            id="a video is no picture",
        ),
        pytest.param(
            [{"ref": "a", "number_of_outputs": 2}, {"images": {"a": 2}}],
            ["1 images_from[0].output: a makes 2, counted from 0"],
            id="an output that is not made",
        ),
        pytest.param([{"ref": "a"}, {"images": {"a": -1}}], ["1 images_from[0].output: must be 0 or more"], id="minus"),
        pytest.param([{"needs": ["a"] * 51}], ["0 depends_on: must name at most 50, pictures included"], id="too many"),
    ],
)
def test_what_cannot_be_is_told(requests: Sequence[Mapping[str, Any]], faults: list[str]) -> None:
    assert _faults(requests) == faults


def test_in_a_strict_order_only_what_came_before_can_be_waited_for() -> None:
    requests: list[dict[str, Any]] = [{"needs": ["b"]}, {"ref": "b"}, {"needs": ["b"]}]
    assert _faults(requests, is_parallel=False) == [
        "0 depends_on[0]: b must come before it, for the batch is not parallel"
    ]


def test_pictures_are_waited_for_once() -> None:
    goes_on = gateway_pb2.DEPENDENCY_FAILURE_POLICY_CONTINUE
    graph, _ = _graph([{"ref": "a"}, {"needs": ["a"], "images": {"a": 0}, "on_failure": goes_on}, {"needs": ["a"]}])
    dependencies, faults = graph.resolve(is_parallel=True)
    assert faults == []
    assert [(d.batch_index, d.needs_index, d.is_required) for d in dependencies] == [(1, 0, False), (2, 0, True)]


@given(data=st.data(), count=st.integers(2, 12))
def test_what_waits_only_for_earlier_ones_never_runs_in_a_circle_and_one_turned_round_does(
    data: st.DataObject, count: int
) -> None:
    needs = {index: sorted(data.draw(st.sets(st.integers(0, index - 1), max_size=3))) for index in range(1, count)}
    requests = [{"ref": f"r{index}", "needs": [f"r{n}" for n in needs.get(index, ())]} for index in range(count)]
    assert _faults(requests) == []
    assert _faults(requests, is_parallel=False) == []
    waiting = [index for index, wanted in needs.items() if wanted]
    if waiting:
        later = data.draw(st.sampled_from(waiting))
        requests[needs[later][0]] = {"ref": f"r{needs[later][0]}", "needs": [f"r{later}"]}
        assert any("runs in a circle" in fault for fault in _faults(requests))


def test_the_longest_chain_counts() -> None:
    graph, _ = _graph([{"ref": "a"}, {"ref": "b", "needs": ["a"]}, {"needs": ["a", "b"]}, {"ref": "d"}])
    graph.resolve(is_parallel=True)
    assert graph.longest_seconds(lambda index: [1.0, 10.0, 100.0, 5.0][index]) == 111.0
    assert Graph().longest_seconds(float) == 0.0


def test_many_faults_and_many_dependencies_are_bounded() -> None:
    unknown: list[dict[str, Any]] = [{"needs": [f"none{index}-{n}" for n in range(50)]} for index in range(100)]
    assert 1_000 <= len(_faults([{"ref": "none"}, *unknown])) < 1_100
    many: list[dict[str, Any]] = [{"ref": "a"}, *({"needs": ["a"] * 50} for _ in range(4_001))]
    assert _faults(many) == ["4001 depends_on: the batch must have at most 200000 in all"]
