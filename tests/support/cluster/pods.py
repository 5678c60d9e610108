"""One pod: its containers as processes, probed as its manifest says, restarted, drained and killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox.children import Child
from sandbox.health import health
from sandbox.processes import Process
from tests.support.cluster.manifests import Container, Probe, Workload
from tests.support.cluster.network import Network
from tests.support.cluster.place import Place
from tests.support.nursery import Nursery

_ONCE_SECONDS = 90.0
_BACK_OFF_SECONDS = 1.0


async def asked(address: str, probe: Probe) -> str:
    """What a probe hears: SERVING, NOT_SERVING, …, or UNREACHABLE."""
    if probe.service is None:
        try:
            async with asyncio.timeout(probe.timeout_seconds):
                _, writer = await asyncio.open_connection(address, probe.port)
        except OSError:
            return "UNREACHABLE"
        writer.close()
        return "SERVING"
    return await asyncio.to_thread(
        health, probe.port, probe.service, host=address, timeout_seconds=probe.timeout_seconds
    )


@dataclass(eq=False)
class Pod:
    """A pod of a workload.

    Args:
        name: its own.
        workload: what it is a replica of.
        network: gives it an address.
        nursery: starts its processes.
        environment_of: what a container finds in its environment.
        volumes: by name of a volume, the folder with its files.
        folder: for its logs.
        changed: is told when it becomes ready, or is so no more.
        haste: how many times faster than its manifest says it is probed once it has started.
    """

    name: str
    workload: Workload
    network: Network
    nursery: Nursery
    environment_of: Callable[[Container], Mapping[str, str]]
    volumes: Mapping[str, Path]
    folder: Path
    changed: Callable[[], None]
    haste: float = 1.0
    address: str = ""
    is_ready: bool = False
    is_leaving: bool = False
    restarts: int = 0
    heard: list[tuple[str, str]] = field(default_factory=list)
    namespace: str = ""
    _children: dict[str, Child] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Run what runs first, then the containers, and probe them from now on."""
        await self._join()
        for container in self.workload.init_containers:
            await self._ran(container)
        for container in self.workload.containers:
            self._run(container)
            self._tasks.append(asyncio.create_task(self._look_after(container), name=f"kubelet:{self.name}"))

    async def complete(self) -> None:
        """Run all containers to their ends, as a Job's; AssertionError where one fails."""
        await self._join()
        for container in self.workload.containers:
            await self._ran(container)
        await asyncio.to_thread(self.network.remove, self.namespace)

    async def terminate(self) -> list[int]:
        """Tell its containers to stop, and kill what takes longer than its grace; their exit codes."""
        self.is_leaving = True
        self.changed()
        await self._end_tasks()
        codes = await asyncio.gather(*(self._stopped(container) for container in self.workload.containers))
        await asyncio.to_thread(self.network.remove, self.namespace)
        return list(codes)

    def kill(self) -> None:
        """End all of its processes as a power cut would; they are started again, as the kubelet does."""
        for container in self.workload.containers:
            os.killpg(self._children[container.name].pid, signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send its processes a signal."""
        for child in self._children.values():
            child.send(number)

    def log(self, container: str = "service") -> str:
        """All that a container has logged."""
        path = self._log(container)
        return path.read_text(errors="replace") if path.exists() else ""

    async def close(self) -> None:
        """Cut everything off."""
        self.is_leaving = True
        await self._end_tasks()
        for child in self._children.values():
            if child.exit_code is None:
                child.send(signal.SIGKILL)
                await asyncio.to_thread(child.wait, 10)

    def _log(self, container: str) -> Path:
        return self.folder / f"{self.name}-{container}.log"

    def _child(self, container: Container) -> Child:
        place = Place(
            self.namespace,
            self.name,
            {path: str(self.volumes[name]) for path, name in container.mounts.items() if name in self.volumes},
            # What is ours runs as whoever runs the tests: its Python may be in a home of theirs.
            user_id=None if container.command[0] == "python" else 65532,
        )

        def start(command: Sequence[str | Path], *, environment: Mapping[str, str]) -> Process:
            return self.nursery.start(command, environment=environment, place=place)

        return Child(
            self.name,
            container.command,
            environment=self.environment_of(container),
            log=self._log(container.name),
            start=start,
        )

    async def _join(self) -> None:
        self.namespace, self.address = await asyncio.to_thread(self.network.add)
        self.changed()

    async def _ran(self, container: Container) -> None:
        """Run a container to its end. AssertionError with its last words where that is no good one."""
        child = self._children[container.name] = self._child(container)
        await asyncio.to_thread(child.start)
        try:
            code = await asyncio.to_thread(child.wait, _ONCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            code = -signal.SIGKILL
        assert code == 0, f"{self.name}: {container.name} has ended with {code}: {child.tail}"

    def _run(self, container: Container) -> None:
        child = self._children[container.name] = self._child(container)
        child.start()

    async def _look_after(self, container: Container) -> None:
        """Restart the container when it ends or is not alive; follow whether it is ready."""
        while True:
            if await self._has_started(container):
                await self._until_restart(container)
            self._tell(is_ready=False)
            self.restarts += 1
            await asyncio.to_thread(self._children[container.name].stop, self.workload.grace_seconds)
            await asyncio.sleep(_BACK_OFF_SECONDS)
            self._run(container)

    async def _has_started(self, container: Container) -> bool:
        probe = container.probes.get("startup")
        for _ in range(probe.failure_threshold if probe else 0):
            assert probe is not None
            if await self._asked("startup", probe) == "SERVING":
                return True
            if self._children[container.name].exit_code is not None:
                return False
            await asyncio.sleep(probe.period_seconds)
        return probe is None

    async def _until_restart(self, container: Container) -> None:
        ends = [asyncio.create_task(self._ended(container)), asyncio.create_task(self._dead(container))]
        follow = asyncio.create_task(self._follow_readiness(container))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*ends, follow):
                task.cancel()

    async def _ended(self, container: Container) -> None:
        while self._children[container.name].exit_code is None:
            await asyncio.sleep(0.1)

    async def _dead(self, container: Container) -> None:
        probe = container.probes["liveness"]
        failures = 0
        while failures < probe.failure_threshold:
            await asyncio.sleep(probe.period_seconds / self.haste)
            failures = 0 if await self._asked("liveness", probe) == "SERVING" else failures + 1

    async def _follow_readiness(self, container: Container) -> None:
        probe = container.probes["readiness"]
        failures = 0
        while True:
            if await self._asked("readiness", probe) == "SERVING":
                failures = 0
                self._tell(is_ready=True)
            else:
                failures += 1
                if failures >= probe.failure_threshold:
                    self._tell(is_ready=False)
            await asyncio.sleep(probe.period_seconds / self.haste)

    async def _asked(self, kind: str, probe: Probe) -> str:
        answer = await asked(self.address, probe)
        self.heard.append((kind, answer))
        return answer

    def _tell(self, *, is_ready: bool) -> None:
        if is_ready != self.is_ready:
            self.is_ready = is_ready
            self.changed()

    async def _stopped(self, container: Container) -> int:
        child = self._children[container.name]
        await asyncio.to_thread(child.stop, self.workload.grace_seconds)
        code = child.exit_code
        assert code is not None
        return code

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
