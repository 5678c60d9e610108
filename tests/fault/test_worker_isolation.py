"""Code in an image worker's place reaches no secret, no file, no network and no other process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.imaging.pictures import quarters, written
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import Workers
from libs.common.isolation.confining import PROTECTIONS
from tests.support.confined import SECRET

_NOBODY = 65532
USERS = [0, _NOBODY] if os.getuid() == 0 else [os.getuid()]


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not pytest's, which other users may not enter.
    found = Path(tempfile.mkdtemp(prefix="darkroom-isolation-"))
    yield found
    shutil.rmtree(found)


def _tried(user: int, folder: Path, place: str) -> dict[str, Any]:
    for name in ("secret", "a"):
        (folder / name).write_text(SECRET)
    if os.getuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, user, user)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        arguments = [sys.executable, "-m", "tests.support.confined", str(user), str(folder), port, place]
        environment = {**os.environ, "DARKROOM_KEY_SECRET": SECRET}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("user", USERS)
def test_code_in_a_workers_place_reaches_nothing(user: int, folder: Path) -> None:
    before = sorted(folder.iterdir())
    found = _tried(user, folder, "worker")
    assert found["missing"] == {}, "this kernel allows every protection"
    assert {name: why for name, why in found["outcomes"].items() if not str(why).startswith("[Errno 1]")} == {}
    assert len(found["outcomes"]) > 25
    assert sorted(folder.iterdir()) == sorted([*before, folder / "a", folder / "secret"])
    assert (folder / "a").read_text() == SECRET


@pytest.mark.parametrize("user", USERS)
def test_a_process_that_is_not_confined_reaches_all_of_it(user: int, folder: Path) -> None:
    outcomes = _tried(user, folder, "shown")["outcomes"]
    assert {name: why for name, why in outcomes.items() if why is not None} == {}


@pytest.mark.skipif(_NOBODY not in USERS and os.getuid() == 0, reason="root may read the memory of all processes")
def test_the_memory_of_a_service_is_hidden_from_its_own_user(folder: Path) -> None:
    outcomes = _tried(USERS[-1], folder, "hidden")["outcomes"]
    assert {name for name, why in outcomes.items() if why is not None} == {
        "environ of the service",
        "memory of the service",
    }


async def test_the_kernel_allows_all_protections_that_can_be_required() -> None:
    workers = Workers(count=1, limits=WorkerLimits(isolation="required"))
    await workers.look_at_kernel()
    image = quarters()
    assert (await workers.run(written(image, "PNG"), PreprocessConfig())).size == image.size
    await workers.close()


_PROGRAM = """
import asyncio, sys
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import Workers
from bench.imaging.pictures import quarters, written
async def main():
    workers = Workers(count=1, limits=WorkerLimits(isolation=sys.argv[1]))
    await workers.look_at_kernel()
    print("size", (await workers.run(written(quarters(), "PNG"), PreprocessConfig())).size)
    await workers.close()
asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
@pytest.mark.parametrize(("isolation", "status"), [("best_effort", 0), ("required", 1)])
async def test_a_protection_that_the_kernel_does_not_allow_is_logged_or_refused(isolation: str, status: int) -> None:
    # In a user namespace that may have no further ones, a worker cannot leave its namespaces.
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    started = ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-c", _PROGRAM]
    done = await asyncio.to_thread(
        subprocess.run, [*started, isolation], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stdout.count("protection=namespaces") == 1
    assert not [name for name in PROTECTIONS if name != "namespaces" and f"protection={name} " in done.stdout]
    assert ("size" in done.stdout) == (status == 0)
