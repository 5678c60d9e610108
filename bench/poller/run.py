"""Runs one contender after the other, each on a database and a provider of its own, and measures it."""

from __future__ import annotations

import json
import time
import urllib.request
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from bench.place import Place, Unavailable
from bench.poller.contenders import DARKROOM, Contender, check_installed, start
from bench.poller.measure import Measured, StatementLog
from bench.poller.scenario import Scenario
from bench.poller.servers import Redis, redis, vendor
from bench.usage import Usage
from sandbox.figures import percentile

LOOK_SECONDS = 0.5


def ledger_of(scenario: Scenario, *, whole: bool = False) -> dict[str, Any]:
    """What the provider has noted; `whole` with each poll's lateness and each task's last poll."""
    url = f"{scenario.vendor_url}/ledger{'?whole' if whole else ''}"
    with urllib.request.urlopen(url, timeout=30) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def measure(place: Place, name: str, scenario: Scenario) -> Measured:
    """Run a contender and measure it. Unavailable where it cannot be run here."""
    check_installed(name)
    database = f"bench_{name}"
    place.postgres.drop_database(database)
    url = place.postgres.create_database(database)
    place.postgres.log_statements(database)
    broker = redis(place) if name == "celery" else nullcontext(Redis())
    with vendor(place, name, scenario) as vendor_url, broker as used:
        scenario = replace(
            scenario,
            vendor_url=vendor_url,
            redis_url=used.url,
            database_url=url if name == DARKROOM else url.replace("+psycopg2", ""),
        )
        contender = start(place, name, scenario)
        try:
            return _measured(place, name, scenario, contender, used)
        finally:
            contender.child.stop(10)


def _measured(place: Place, name: str, scenario: Scenario, contender: Contender, broker: Redis) -> Measured:
    own, servers = Usage((contender.child.pid,)), Usage((place.postgres.pid, *broker.pids))
    statements = StatementLog(place.postgres.log)
    for counter in (statements, own, servers):
        counter.start()
    _wait(scenario, contender, (own, servers))
    ledger = ledger_of(scenario, whole=True)
    polls = ledger["polls"]
    if polls == 0:
        raise Unavailable(f"{name} polled nothing. Its last lines:\n{contender.child.tail}")
    grown_bytes = max(0, own.peak_bytes - contender.base_bytes)
    return Measured(
        name=name,
        polls=polls,
        done=ledger["done"],
        seconds=ledger["last_at"] - ledger["first_at"],
        late_p50_seconds=percentile(ledger["late_seconds"], 0.5),
        late_p99_seconds=percentile(ledger["late_seconds"], 0.99),
        cpu_ms_per_poll=1_000 * own.cpu_seconds / polls,
        server_cpu_ms_per_poll=1_000 * servers.cpu_seconds / polls,
        statements_per_poll=None if broker.url else statements.count() / polls,
        peak_bytes=own.peak_bytes,
        bytes_per_10_000_tasks=grown_bytes / scenario.tasks * 10_000,
        note="" if ledger["done"] >= scenario.tasks else f"{scenario.tasks - ledger['done']} tasks not ended in time",
    )


def _wait(scenario: Scenario, contender: Contender, usages: tuple[Usage, ...]) -> None:
    """Until all tasks have ended, or four times as long as that should take, or the contender is dead."""
    deadline = time.monotonic() + 4 * scenario.interval_seconds * (scenario.polls + 2) + 60
    while time.monotonic() < deadline and contender.child.exit_code is None:
        for usage in usages:
            usage.look()
        if ledger_of(scenario)["done"] >= scenario.tasks:
            return
        time.sleep(LOOK_SECONDS)
