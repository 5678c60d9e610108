"""Our poller alone, with many live tasks: what it takes to hold them, and how late their polls are."""

from __future__ import annotations

import time
from dataclasses import replace

from bench.place import Place
from bench.poller import darkroom
from bench.poller.contenders import Contender, start_poller
from bench.poller.run import LOOK_SECONDS, ledger_of
from bench.poller.scenario import Scenario
from bench.poller.servers import vendor
from bench.usage import Usage
from sandbox.figures import percentile

_DATABASE = "bench_live"
_TELL_SECONDS = 5.0
_LEAD_SECONDS = 2.0


def live(place: Place, scenario: Scenario, seconds: float) -> dict[str, float]:
    """Let our poller hold `scenario.tasks` live tasks for so long; what it took, by name."""
    place.postgres.drop_database(_DATABASE)
    url = place.postgres.create_database(_DATABASE)
    with vendor(place, "live", scenario) as vendor_url:
        scenario = replace(scenario, vendor_url=vendor_url, database_url=url)
        contender = start_poller(place, scenario)
        try:
            # First polls are due from now on, not an interval later; the time that inserting takes is not lateness.
            lead_seconds = _LEAD_SECONDS + scenario.tasks / 10_000
            began = time.time() - scenario.interval_seconds + lead_seconds
            darkroom.insert(scenario, began=began)
            each_ms = 1_000 * scenario.interval_seconds / scenario.tasks
            place.tell(f"{scenario.tasks} live tasks, one due every {each_ms:.1f} ms")
            return _figures(place, scenario, contender, began=began, seconds=seconds)
        finally:
            contender.child.stop(10)


def _figures(
    place: Place, scenario: Scenario, contender: Contender, *, began: float, seconds: float
) -> dict[str, float]:
    usage, statements = Usage((contender.child.pid,)), contender.statements()
    usage.start()
    until, told_at = time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        usage.look()
        if time.monotonic() - told_at > _TELL_SECONDS:
            told_at = time.monotonic()
            place.tell(f"  {ledger_of(scenario)['polls']} polls")
        time.sleep(LOOK_SECONDS)
    ledger = ledger_of(scenario, whole=True)
    sent = contender.statements() - statements
    late = [
        max(0.0, at - began - scenario.first_wait_seconds(int(task_id.removeprefix("task-"))))
        for task_id, at in ledger["answered_at"].items()
    ]
    polls = max(1, ledger["polls"])
    return {
        "live tasks": scenario.tasks,
        "polls": ledger["polls"],
        "polls per second": ledger["polls"] / max(0.001, ledger["last_at"] - ledger["first_at"]),
        "lateness p50, seconds": percentile(late, 0.5),
        "lateness p99, seconds": percentile(late, 0.99),
        "lateness, longest, seconds": max(late, default=0.0),
        "statements per poll": sent / polls,
        "CPU per poll, ms": 1_000 * usage.cpu_seconds / polls,
        "resident memory at the peak, MiB": usage.peak_bytes / 2**20,
        "of it before there were tasks, MiB": contender.base_bytes / 2**20,
    }
