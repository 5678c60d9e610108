"""The laptop's stack: it starts, tells why it does not, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from darkroom.gateway.v1 import gateway_pb2
from darkroom.gateway.v1.gateway_pb2_grpc import GenerationServiceStub

from libs.client.channel import open_channel
from libs.common.adapters.registry import adapters
from libs.common.catalog import load
from sandbox import processes
from sandbox.children import Child
from sandbox.demo import looked_into
from sandbox.launcher import Stack, StackFailed
from sandbox.plan import ROOT, SHIPPED_CATALOG, Plan, Ports
from tests.support.infrastructure import PATH
from tests.support.running import own_environment
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


def _environment(folder: Path, ports: Ports | None = None) -> dict[str, str]:
    environment = own_environment() | {"PYTHONPATH": PATH, "DARKROOM_SANDBOX_FOLDER": str(folder)}
    if ports is not None:
        environment |= ports.variables()
        for name in ("postgres", "object_store", "simulators"):
            environment[f"DARKROOM_SANDBOX_{name.upper()}_PORT"] = str(getattr(ports, name))
    return environment


def _of(folder: Path) -> list[psutil.Process]:
    """Processes that run with something below a folder in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            described = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in part for part in described):
            found.append(process)
    return found


async def _nothing_left(folder: Path) -> None:
    async def gone() -> bool:
        return not _of(folder)

    await eventually(gone, within=10, what="nothing is left running")


async def test_the_demo_sends_a_request_through_each_adapter_and_leaves_images(tmp_path: Path) -> None:
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "sandbox", "demo"],
        env=_environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    files = sorted((tmp_path / "demo/results").iterdir())
    catalog = load(SHIPPED_CATALOG)
    saved = {path.name.rpartition("-")[0] for path in files}
    batch = {"harbour", "harbour-film", "tram", "tram-film", "poster"}
    assert batch < saved
    assert {catalog.provider_of(catalog.model(model)).adapter for model in saved - batch} == set(adapters())
    assert "It was not run: picture, which it depends on, did not succeed: TASK_FAILED." in run.stdout
    assert {path.suffix for path in files} == {".jpeg", ".png", ".mp4"}
    for path in files:
        assert looked_into(path.read_bytes(), "video" if path.suffix == ".mp4" else "image").size
    assert re.search(r"Done in \d+ s", run.stdout)
    await _nothing_left(tmp_path)


async def test_the_demo_fails_with_the_reason_where_a_request_fails(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.yaml"
    shipped = (ROOT / "catalog.yaml").read_text()
    catalog.write_text(shipped.replace("https://api.bfl.ai", "http://127.0.0.1:9"))
    environment = _environment(tmp_path) | {"DARKROOM_CATALOG": str(catalog), "BFL_API_KEY": "k", "TUZI_API_KEY": ""}
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "sandbox", "demo"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 1
    assert "The demo failed" in run.stdout
    assert "FAILED" in run.stdout
    await _nothing_left(tmp_path)


@pytest.fixture
def up(tmp_path: Path) -> Child:
    """`make up` on ports of its own, not started yet."""
    return Child(
        "up",
        ["python", "-m", "sandbox", "up"],
        environment=_environment(tmp_path, Ports.free()),
        log=tmp_path / "up.log",
    )


async def _says(child: Child, words: str) -> None:
    async def said() -> bool:
        assert child.exit_code is None, child.tail
        return words in child.tail

    await eventually(said, within=40, what=words)


def _process(folder: Path, words: str) -> psutil.Process:
    (found,) = [process for process in _of(folder) if words in " ".join(process.cmdline()[:3])]
    return found


async def test_up_starts_parts_again_that_die_and_ends_with_zero_at_a_signal(tmp_path: Path, up: Child) -> None:
    up.start()
    await _says(up, "Darkroom is up")
    for part in ("services.poller", "bin/postgres"):
        first = _process(tmp_path, part)
        first.kill()
        await _says(up, "again in")
        pid = first.pid

        async def back(part: str = part, pid: int = pid) -> bool:
            return any(part in " ".join(process.cmdline()[:3]) for process in _of(tmp_path) if process.pid != pid)

        await eventually(back, within=15, what=f"{part} runs again")
    up.send(signal.SIGINT)
    assert await asyncio.to_thread(up.wait, 40) == 0
    await _nothing_left(tmp_path)


async def test_up_ends_with_the_reason_when_a_part_cannot_be_kept_up(tmp_path: Path, up: Child) -> None:
    up.start({"DARKROOM_CRASH_AT": "poller.task_claimed", "DARKROOM_LEASE_SECONDS": "1"})
    await _says(up, "Darkroom is up")
    said = (tmp_path / "up.log").read_text()
    (port,) = [match[1] for match in re.finditer(r"gateway on 127.0.0.1:(\d+)", said)]
    (key,) = [match[1] for match in re.finditer(r"admin key +(\S+)", said)]
    async with open_channel(f"127.0.0.1:{port}", key) as channel:
        request = gateway_pb2.CreateGenerationRequest(model_identifier="sora-2", prompt="x")
        await GenerationServiceStub(channel).CreateGeneration(request, timeout=60)
    assert await asyncio.to_thread(up.wait, 60) == 1
    assert "poller has ended 4 times in a minute" in (tmp_path / "up.log").read_text()
    await _nothing_left(tmp_path)


async def test_what_a_crash_left_behind_is_stopped_by_the_next_start(tmp_path: Path, up: Child) -> None:
    up.start()
    await _says(up, "Darkroom is up")
    await asyncio.to_thread(up.kill)
    assert _of(tmp_path)

    up.start()
    await _says(up, "Darkroom is up")
    assert re.search(r"stopped \d+ processes that an earlier run left behind", (tmp_path / "up.log").read_text())
    up.send(signal.SIGTERM)
    assert await asyncio.to_thread(up.wait, 40) == 0
    await _nothing_left(tmp_path)


async def test_a_port_in_use_is_named_with_what_moves_it(tmp_path: Path) -> None:
    ports = Ports.free()
    with (
        socket.create_server(("127.0.0.1", ports.grpc["poller"])),
        pytest.raises(StackFailed, match=rf"{ports.grpc['poller']} \(DARKROOM_POLLER_PORT moves it\)"),
    ):
        await asyncio.to_thread(Stack(Plan(tmp_path, ports, environment=own_environment())).start)


async def test_two_stacks_do_not_share_a_folder(tmp_path: Path) -> None:
    plan = Plan(tmp_path, Ports.free(), environment=own_environment(), services=(), durable=False)
    with Stack(plan):
        other = Plan(tmp_path, Ports.free(), environment=own_environment(), services=(), durable=False)
        with pytest.raises(StackFailed, match="already"):
            Stack(other).start()
    await _nothing_left(tmp_path)


async def test_a_database_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    environment = own_environment() | {"DARKROOM_DATABASE_URL": "postgresql+psycopg2://u:hunter2@127.0.0.1:9/x"}
    with pytest.raises(StackFailed, match=r"[Cc]onnection") as caught:
        await asyncio.to_thread(Stack(Plan(tmp_path, Ports.free(), environment=environment, services=())).start)
    assert "hunter2" not in str(caught.value)
    await _nothing_left(tmp_path)


async def test_a_service_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    plan = Plan(
        tmp_path,
        Ports.free(),
        environment=own_environment(),
        settings={"DARKROOM_LEASE_SECONDS": "-1"},
        services=("poller",),
        durable=False,
    )
    with pytest.raises(StackFailed, match="DARKROOM_LEASE_SECONDS"):
        await asyncio.to_thread(Stack(plan).start)
    await _nothing_left(tmp_path)


def test_a_reused_process_id_is_never_taken_for_a_leftover(tmp_path: Path) -> None:
    path = tmp_path / "processes"
    path.write_text(f"{os.getppid()} 1.0\n")
    assert processes.PidFile(path).stop_leftovers() == 0
