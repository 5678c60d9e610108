"""Who gets which variant: uniform, the same each time, and with as few moves as can be."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from libs.common.experiments.allocation import (
    BUCKETS,
    Allocations,
    Request,
    Running,
    Targeting,
    VariantSpec,
    bucket_of,
    unit_of,
)
from libs.common.experiments.messages import allocation_message, running_of
from services.experiments import buckets

USERS = [f"user-{number}" for number in range(20_000)]
VARIANTS = tuple(VariantSpec(f"var_{name}", name, "flux-pro", "", {}) for name in "abc")
# Largest remainders of equal parts.
THIRDS = [3_334, 3_333, 3_333]


def running(name: str = "exp_1", weights: list[int] | None = None, **changes: Any) -> Running:
    """A running experiment that takes all requests for flux-pro."""
    weights = weights or [5_000, 5_000]
    made = Running(
        experiment_id=name,
        salt=f"salt of {name}",
        layer=name,
        layer_ranges=((0, BUCKETS),),
        targeting=Targeting(frozenset({"flux-pro"})),
        variants=VARIANTS[: len(weights)],
        buckets=buckets.spread(weights),
        version=1,
    )
    return replace(made, **changes)


def allocated(experiments: list[Running], user: str, **fields: Any) -> tuple[str, str] | None:
    """The experiment and the variant of a user."""
    request = Request("flux-pro", "shop", user, **fields)
    found = Allocations(experiments, lambda: 0).allocate(request)
    return (found.experiment.experiment_id, found.variant.id) if found else None


def test_buckets_of_users_are_uniform_and_two_experiments_do_not_agree() -> None:
    first = [bucket_of("exp_1", "s1", unit_of("shop", user)) for user in USERS]
    second = [bucket_of("exp_2", "s2", unit_of("shop", user)) for user in USERS]
    for places in (first, second):
        assert chisquare(list(Counter(place // 100 for place in places).values())).pvalue > 0.001
    both = Counter((one // 1_000, other // 1_000) for one, other in zip(first, second, strict=True))
    assert chisquare(list(both.values())).pvalue > 0.001
    assert len(both) == 100


def test_a_user_keeps_the_variant_and_another_owners_user_of_that_name_is_another() -> None:
    experiment = running()
    first = [allocated([experiment], user) for user in USERS[:500]]
    assert first == [allocated([experiment], user) for user in USERS[:500]]
    others = [Allocations([experiment], lambda: 0).allocate(Request("flux-pro", "other", user)) for user in USERS[:500]]
    assert [found.variant.id for found in others if found] != [found[1] for found in first if found]


def test_without_a_user_chance_decides() -> None:
    chance = random.Random(1)
    allocations = Allocations([running(weights=[2_000, 8_000])], lambda: chance.randrange(BUCKETS))
    found = Counter(made.variant.id for _ in range(5_000) if (made := allocations.allocate(Request("flux-pro"))))
    assert chisquare([found["var_a"], found["var_b"]], [1_000, 4_000]).pvalue > 0.001


def test_experiments_of_one_layer_exclude_each_other_and_share_all_users() -> None:
    first = running("exp_1", layer="look", layer_ranges=((0, 4_000),))
    second = running("exp_2", layer="look", layer_ranges=((4_000, 7_000), (9_000, BUCKETS)))
    found = Counter(made[0] if (made := allocated([first, second], user)) else "none" for user in USERS)
    assert chisquare([found["exp_1"], found["exp_2"], found["none"]], [8_000, 8_000, 4_000]).pvalue > 0.001
    alone = {user: allocated([first], user) for user in USERS[:2_000]}
    beside = {user: allocated([first, second], user) for user in alone}
    assert all(beside[user] == made for user, made in alone.items() if made)


def test_a_request_takes_part_in_the_first_experiment_that_it_fits() -> None:
    experiments = [running("exp_1"), running("exp_2")]
    allocations = Allocations(experiments, lambda: 0)
    found = allocations.allocate(
        Request("flux-pro", "shop", "x"), fits=lambda candidate: candidate.experiment_id == "exp_2"
    )
    assert found is not None
    assert found.experiment.experiment_id == "exp_2"
    assert found.probability == 0.5


@pytest.mark.parametrize(
    ("targeting", "fields", "takes"),
    [
        (Targeting(frozenset({"flux-pro"})), {}, True),
        (Targeting(frozenset({"flux-dev"})), {}, False),
        (Targeting(frozenset({"flux-pro"}), frozenset({"key_1"})), {"api_key_id": "key_1"}, True),
        (Targeting(frozenset({"flux-pro"}), frozenset({"key_1"})), {"api_key_id": "key_2"}, False),
        (Targeting(frozenset({"flux-pro"}), labels={"plan": "pro"}), {"labels": {"plan": "pro", "x": "y"}}, True),
        (Targeting(frozenset({"flux-pro"}), labels={"plan": "pro"}), {"labels": {"plan": "free"}}, False),
        (Targeting(frozenset({"flux-pro"}), labels={"plan": "pro"}), {}, False),
    ],
)
def test_targeting(targeting: Targeting, fields: dict[str, Any], *, takes: bool) -> None:
    assert (allocated([running(targeting=targeting)], "user", **fields) is not None) is takes


def test_running_experiments_travel_whole() -> None:
    variant = VariantSpec("var_x", "x", "flux-dev", "{prompt}!", {"seed": 7, "nested": {"a": [1, 2.5]}})
    sent = running(
        layer_ranges=((0, 10), (20, 30)),
        targeting=Targeting(frozenset({"flux-pro"}), frozenset({"key_1"}), {"plan": "pro"}),
        variants=(variant, VARIANTS[1]),
    )
    assert running_of([allocation_message(sent)]) == [sent]


@pytest.mark.parametrize("spread", [b"", bytes(BUCKETS - 1), bytes([2]) * BUCKETS])
def test_buckets_that_nobody_could_allocate_from_are_refused(spread: bytes) -> None:
    with pytest.raises(ValueError, match="do not fit its variants"):
        running_of([allocation_message(running(buckets=spread))])


def test_half_a_range_is_refused() -> None:
    message = allocation_message(running())
    message.layer_ranges.pop()
    with pytest.raises(ValueError, match="shorter"):
        running_of([message])


WEIGHTS = st.lists(st.integers(0, 100), min_size=2, max_size=6).filter(any)


@given(WEIGHTS, WEIGHTS)
def test_a_change_moves_as_few_as_can_be_and_all_have_what_they_are_to_have(one: list[int], other: list[int]) -> None:
    size = min(len(one), len(other))
    shares = [[weight + 1 for weight in weights[:size]] for weights in (one, other)]
    before, after = (buckets.rounded([share / sum(part) for share in part]) for part in shares)
    old = buckets.spread(before)
    new = buckets.moved(old, after)
    assert [new.count(position) for position in range(size)] == after
    changed = sum(was != now for was, now in zip(old, new, strict=True))
    assert changed == sum(max(0, was - now) for was, now in zip(before, after, strict=True))


@given(WEIGHTS, st.integers(0, 1_000))
def test_rounded_shares_sum_to_all_and_keep_the_floor(weights: list[int], floor: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    found = buckets.rounded(shares, floor=floor)
    assert sum(found) == BUCKETS
    for share, weight in zip(shares, found, strict=True):
        assert weight >= floor if share else weight == 0


def test_equal_shares_are_as_equal_as_can_be() -> None:
    assert buckets.rounded([1.0] * 3) == THIRDS


@given(st.lists(st.integers(0, BUCKETS), max_size=8, unique=True), st.integers(1, BUCKETS))
def test_free_ranges_take_nothing_of_others(edges: list[int], wanted: int) -> None:
    cut = sorted(edges)
    taken = [[[start, end]] for start, end in zip(cut[::2], cut[1::2], strict=False)]
    free = BUCKETS - sum(end - start for ranges in taken for start, end in ranges)
    found = buckets.free_ranges(taken, wanted)
    if wanted > free:
        assert found is None
        return
    assert found is not None
    mine = {place for start, end in found for place in range(start, end)}
    others = {place for ranges in taken for start, end in ranges for place in range(start, end)}
    assert len(mine) == wanted
    assert not mine & others
