"""Starts contenders: our poller with tasks in its tables, and the peers, which hand in their own."""

from __future__ import annotations

import importlib.util
import time
import urllib.request
from dataclasses import dataclass

from bench.place import Place, Unavailable, environment, wait_for
from bench.poller import darkroom
from bench.poller.scenario import BASE, READY, Scenario
from bench.usage import Usage
from sandbox.children import Child
from sandbox.health import health

DARKROOM = "darkroom"
PEERS = ("procrastinate", "pgqueuer", "dbos", "celery")
_STATEMENTS = "darkroom_database_statements_total "


@dataclass(frozen=True, slots=True)
class Contender:
    """A process that follows tasks. `base_bytes` is its memory before it had any."""

    child: Child
    base_bytes: int
    metrics_port: int | None = None

    def statements(self) -> float:
        """How many statements our poller has sent, by its own count."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        return next(float(line.removeprefix(_STATEMENTS)) for line in lines if line.startswith(_STATEMENTS))


def check_installed(name: str) -> None:
    """Raise Unavailable for a peer that is not installed."""
    if name != DARKROOM and importlib.util.find_spec(name) is None:
        raise Unavailable(f"{name} is not installed; `make bench` installs it")


def start(place: Place, name: str, scenario: Scenario) -> Contender:
    """Start a contender on the scenario, and answer once it works. Unavailable where it does not start."""
    if name != DARKROOM:
        return _start_peer(place, name, scenario)
    contender = start_poller(place, scenario)
    darkroom.insert(scenario, began=time.time())
    return contender


def start_poller(place: Place, scenario: Scenario) -> Contender:
    """Start our poller on empty tables."""
    variables = darkroom.environment(scenario, place.folder)
    child = Child(
        "poller",
        ["python", "-m", "services.poller"],
        environment=environment() | variables,
        log=place.folder / "darkroom.log",
    )
    child.start()
    port = int(variables["DARKROOM_POLLER_PORT"])
    wait_for(lambda: health(port) == "SERVING", child)
    return Contender(child, _memory(child), int(variables["DARKROOM_POLLER_METRICS_PORT"]))


def _start_peer(place: Place, name: str, scenario: Scenario) -> Contender:
    child = Child(
        name,
        ["python", "-m", f"bench.poller.peers.{name}_peer"],
        environment=environment() | scenario.variables(),
        log=place.folder / f"{name}.log",
    )
    child.start()
    wait_for(lambda: BASE in child.tail, child)
    base_bytes = _memory(child)
    wait_for(lambda: READY in child.tail, child)
    return Contender(child, base_bytes)


def _memory(child: Child) -> int:
    usage = Usage((child.pid,))
    usage.look()
    return usage.peak_bytes
