"""Law 3: a dispatcher knows by its own clock when its leases end, and that is never later than the rows say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from libs.common.database.records import Lease
from services.dispatcher.leases import Leases

CLAIM = Lease("gen_1", 1)
LEASE_SECONDS = 30.0
SECONDS = st.floats(0, 100)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_lease_counts_from_before_the_claim_was_sent() -> None:
    clock = Clock()
    leases = Leases(LEASE_SECONDS, clock=clock)
    assert not leases.is_held(CLAIM)
    asked_at = clock.now
    clock.now += 10
    leases.begin(CLAIM, asked_at=asked_at)
    clock.now += 19
    assert leases.is_held(CLAIM)
    clock.now += 1
    assert not leases.is_held(CLAIM)


def test_only_confirmed_renewals_extend_a_lease() -> None:
    clock = Clock()
    leases = Leases(LEASE_SECONDS, clock=clock)
    other = Lease("gen_2", 1)
    for claim in (CLAIM, other):
        leases.begin(claim, asked_at=clock.now)
    asked_at = clock.now + 20
    clock.now += 25
    leases.renew([CLAIM], asked_at=asked_at)
    clock.now += 10
    assert (leases.is_held(CLAIM), leases.is_held(other)) == (True, False)
    leases.end(CLAIM)
    leases.renew([CLAIM], asked_at=clock.now)
    assert not leases.is_held(CLAIM)


def test_newer_claim_of_the_same_row_is_another_lease() -> None:
    clock = Clock()
    leases = Leases(LEASE_SECONDS, clock=clock)
    leases.begin(CLAIM, asked_at=clock.now)
    newer = Lease(CLAIM.generation_id, CLAIM.token + 1)
    assert not leases.is_held(newer)
    leases.begin(newer, asked_at=clock.now)
    leases.end(CLAIM)
    assert leases.is_held(newer)


def test_permit_ends_with_the_lease_of_its_attempt_though_the_claim_was_renewed() -> None:
    clock = Clock()
    leases = Leases(LEASE_SECONDS, clock=clock)
    leases.begin(CLAIM, asked_at=clock.now)
    may_leave = leases.permit(CLAIM)
    clock.now += LEASE_SECONDS - 1
    leases.renew([CLAIM], asked_at=clock.now)
    assert may_leave()
    clock.now += 1
    assert (may_leave(), leases.is_held(CLAIM)) == (False, True)


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=20), SECONDS)
def test_request_never_leaves_later_than_a_lease_after_its_attempt_began(
    renewals: list[tuple[float, float]], waits: float
) -> None:
    clock = Clock()
    leases = Leases(LEASE_SECONDS, clock=clock)
    leases.begin(CLAIM, asked_at=clock.now)
    held_until = clock.now + LEASE_SECONDS
    permit, began_at = leases.permit(CLAIM), clock.now
    for before, reply in renewals:
        clock.now += before
        asked_at, clock.now = clock.now, clock.now + reply
        leases.renew([CLAIM], asked_at=asked_at)
        held_until = max(held_until, asked_at + LEASE_SECONDS)
        assert permit() == (clock.now < min(began_at + LEASE_SECONDS, held_until))
    clock.now += waits
    assert permit() == (clock.now < min(began_at + LEASE_SECONDS, held_until))
