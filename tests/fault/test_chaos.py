"""All laws at once: two dispatchers and two pollers, broken for half a minute, lose nothing and double nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.run import Run
from chaos.schedule import schedule


@pytest.mark.timeout(300)
async def test_under_chaos_nothing_is_lost_billed_twice_or_stuck(tmp_path: Path) -> None:
    told: list[str] = []
    run = Run(tmp_path, seed=7, generations=300, seconds=25, tell=told.append)
    outcome = await run.go()
    report = outcome.report
    assert report.is_clean, report
    assert outcome.kills >= 6, told
    assert len(outcome.load.tickets) == 300
    assert report.succeeded > 200, report
    assert report.batches == 6, report
    assert outcome.recovery.seconds or outcome.recovery.ready_seconds, "nobody held anything when it died"


def test_a_seed_says_what_is_broken_when() -> None:
    processes = ("gateway", "dispatcher", "poller")
    first, again, other = (schedule(seed, seconds=60, processes=processes) for seed in (1, 1, 2))
    assert first == again
    assert first.blows != other.blows
    assert {blow.part for blow in first.blows} >= {"postgres", "simulators", "object store"}
    assert list(first.blows) == sorted(first.blows, key=lambda blow: blow.at)


def test_nobody_is_killed_while_it_is_away() -> None:
    for seed in range(50):
        back: dict[str, float] = {}
        for blow in schedule(seed, seconds=120, processes=("gateway", "dispatcher", "poller")).blows:
            assert blow.at >= back.get(blow.part, 0.0)
            back[blow.part] = blow.at + blow.away_seconds
