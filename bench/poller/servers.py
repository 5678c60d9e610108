"""The servers that a run needs beside Postgres: the provider, and Redis for Celery."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.place import Place, Unavailable, environment, wait_for
from bench.poller.scenario import Scenario
from sandbox.children import Child
from sandbox.processes import free_port, is_used


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis server of a contender; an empty URL: none."""

    url: str = ""
    pids: tuple[int, ...] = ()


@contextmanager
def vendor(place: Place, name: str, scenario: Scenario) -> Iterator[str]:
    """A provider of the contender's own; its URL."""
    port = free_port()
    options = {"--port": port, "--polls": scenario.polls, "--interval": scenario.interval_seconds}
    child = Child(
        "vendor",
        ["python", "-m", "bench.poller.vendor", *(str(word) for option in options.items() for word in option)],
        environment=environment(),
        log=place.folder / f"vendor-{name}.log",
    )
    child.start()
    try:
        wait_for(lambda: is_used(port), child)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.stop(5)


@contextmanager
def redis(place: Place) -> Iterator[Redis]:
    """A Redis that keeps what it is given. Unavailable where there is no `redis-server`."""
    if shutil.which("redis-server") is None:
        raise Unavailable("its broker is not here: install redis-server (Debian: apt install redis-server)")
    port = free_port()
    child = Child(
        "redis",
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", place.folder, "--appendonly", "yes"],
        environment=environment(),
        log=place.folder / "redis.log",
    )
    child.start()
    try:
        wait_for(lambda: is_used(port), child)
        yield Redis(f"redis://127.0.0.1:{port}/0", (child.pid,))
    finally:
        child.stop(5)
