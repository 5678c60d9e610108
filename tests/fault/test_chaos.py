"""All laws at once: two dispatchers and two pollers, broken for half a minute, lose nothing and double nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.audit import LAWS
from chaos.run import Run
from chaos.schedule import Kind, Schedule, schedule

pytestmark = pytest.mark.slow


@pytest.mark.timeout(300)
async def test_under_chaos_nothing_is_lost_billed_twice_or_stuck(tmp_path: Path) -> None:
    told: list[str] = []
    run = Run(tmp_path, seed=7, generations=300, seconds=25, tell=told.append)
    outcome = await run.go()
    report = outcome.report
    assert {name: found for name in LAWS if (found := getattr(report, name))} == {}
    assert outcome.injector.counts[Kind.KILL] >= 6, told
    assert outcome.lost_replies > 0
    assert outcome.audits.count >= 2
    assert len(outcome.load.tickets) >= 300
    assert report.succeeded > 200, report
    assert report.batches == 8, report
    assert outcome.recovery.seconds or outcome.recovery.ready_seconds, "nobody held anything when it died"


def _schedule(seed: int, *, seconds: float) -> Schedule:
    return schedule(seed, seconds=seconds, processes=("gateway", "dispatcher", "poller"), stall_seconds=7)


def test_each_kind_of_fault_is_injected_in_each_third() -> None:
    for seed in range(20):
        injections = _schedule(seed, seconds=60).injections
        for kind in (Kind.STALL, Kind.KILL_AFTER_COMMIT, Kind.REFUSE_READS):
            assert [int(injection.at // 20) for injection in injections if injection.kind is kind] == [0, 1, 2]


def test_a_seed_says_what_is_broken_when() -> None:
    first, again, other = (_schedule(seed, seconds=60) for seed in (1, 1, 2))
    assert first == again
    assert first.injections != other.injections
    assert {injection.part for injection in first.injections} >= {"postgres", "simulators", "object store"}
    assert list(first.injections) == sorted(first.injections, key=lambda injection: injection.at)


def test_nobody_is_killed_while_it_is_away() -> None:
    for seed in range(50):
        back: dict[str, float] = {}
        for injection in _schedule(seed, seconds=120).injections:
            if injection.kind not in {Kind.KILL, Kind.KILL_AFTER_COMMIT}:
                continue
            assert injection.at >= back.get(injection.part, 0.0)
            back[injection.part] = injection.at + injection.away_seconds
