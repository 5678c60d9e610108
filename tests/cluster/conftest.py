"""A cluster for the tests of this folder, which `make cluster` runs where networks and mounts are theirs alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import stack_folder
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.place import bind
from tests.support.infrastructure import Infrastructure

_MOUNT_POINTS = ("darkroom/files", "darkroom/secrets", "darkroom/tls", "pgbouncer", "pgbouncer-secrets")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them as slow, and skip them outside of `make cluster`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)
            if os.environ.get("DARKROOM_CLUSTER") != "1":
                item.add_marker(pytest.mark.skip(reason="`make cluster` runs it"))


@pytest.fixture(scope="session")
def place_for_volumes() -> Iterator[Path]:
    """A folder for the cluster; /etc is a copy below it from now on, in which volumes can be mounted."""
    with stack_folder(in_memory=False) as folder:
        own = folder / "etc"
        shutil.copytree("/etc", own, symlinks=True, ignore_dangling_symlinks=True)
        for name in _MOUNT_POINTS:
            (own / name).mkdir(parents=True, exist_ok=True)
        bind(own, "/etc")
        yield folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cluster(place_for_volumes: Path, shared: Infrastructure) -> AsyncIterator[Cluster]:
    """What the production overlay asks for, with probes ten times as often once a container has started."""
    made = Cluster(shared, place_for_volumes, haste=10)
    try:
        await made.start()
        yield made
    finally:
        await made.close()
