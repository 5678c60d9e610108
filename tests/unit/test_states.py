from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.database import states
from libs.common.database.states import INITIAL, TERMINAL, TRANSITIONS, IllegalTransition, State

ALL = sorted(State)


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_terminal_states_are_the_three_that_clients_know_as_ends() -> None:
    assert {State.SUCCESS, State.FAILED, State.CANCELLED} == TERMINAL


@given(st.sampled_from(ALL), st.sampled_from(ALL))
def test_a_transition_passes_exactly_if_the_table_has_it(source: State, target: State) -> None:
    if target in TRANSITIONS[source]:
        states.check(source, target)
        assert source.value in states.sources(target)
    else:
        with pytest.raises(IllegalTransition, match=f"{source} → {target}"):
            states.check(source, target)


@given(st.sampled_from(sorted(INITIAL)), st.lists(st.integers(0, 10), max_size=40))
def test_any_walk_can_still_reach_an_end(start: State, choices: list[int]) -> None:
    here = start
    for choice in choices:
        following = sorted(TRANSITIONS[here])
        if not following:
            break
        here = following[choice % len(following)]
    reachable, fresh = {here}, {here}
    while fresh:
        fresh = {target for source in fresh for target in TRANSITIONS[source]} - reachable
        reachable |= fresh
    assert reachable & TERMINAL


def test_every_state_can_be_reached_from_an_initial_one() -> None:
    reachable = set(INITIAL)
    for _ in State:
        reachable |= {target for source in reachable for target in TRANSITIONS[source]}
    assert reachable == set(State)


def test_only_what_nobody_has_claimed_is_held_again() -> None:
    assert states.sources(State.HELD) == [State.PENDING]


def test_what_nothing_leads_to_is_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TRANSITIONS", {State.HELD: frozenset({State.CANCELLED})})
    with pytest.raises(IllegalTransition, match="HELD"):
        states.sources(State.HELD)


def test_a_terminal_state_leads_nowhere() -> None:
    assert all(not TRANSITIONS[state] for state in TERMINAL)
