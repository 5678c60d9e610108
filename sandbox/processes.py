"""Child processes of the sandbox: started in a group of their own, remembered on disk, stopped without fail."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

import psutil

# Large, so that the port of a service that does not run is not given away again while its stack does.
_BLOCK = 400
_FIRST = 20_000 + os.getpid() % 30 * _BLOCK
_candidates = itertools.cycle(range(_FIRST, _FIRST + _BLOCK))


class Process(Protocol):
    """A process that was started: what of `subprocess.Popen` is used."""

    pid: int
    stdout: IO[bytes] | None
    returncode: int | None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. subprocess.TimeoutExpired where that takes longer."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, unless it has ended."""


class Start(Protocol):
    """Starts a process with an environment of its own, and its output in a pipe."""

    def __call__(self, command: Sequence[str | Path], *, environment: Mapping[str, str]) -> Process:
        """Start it."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now, below those that outgoing connections get.

    Each process goes round a block of its own, so that two that start stacks at once do not pick the same.
    """
    for port in _candidates:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the candidates never end")


def is_used(port: int) -> bool:
    """Whether somebody listens on that port of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class PidFile:
    """Remembers the processes of a run, so that the next run can stop what a crash left behind."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, pid: int) -> None:
        """Remember a process by its id and start time, so that a reused id is never taken for it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(pid).create_time()
            with self._path.open("a") as file:
                file.write(f"{pid} {started}\n")

    def stop_leftovers(self) -> int:
        """Kill what is still alive of the remembered processes and their children. Answers how many there were."""
        found: list[psutil.Process] = []
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            pid, started = line.split()
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(int(pid))
                if abs(process.create_time() - float(started)) < 1:
                    found += [process, *process.children(recursive=True)]
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=10)
        self.forget()
        return len(found)

    def forget(self) -> None:
        """All have been stopped."""
        self._path.unlink(missing_ok=True)


def start(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    output: int | None = subprocess.PIPE,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own: a Ctrl-C reaches the launcher alone, which stops the rest."""
    return subprocess.Popen(
        [str(part) for part in command],
        env=dict(environment) if environment is not None else None,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output is not None else None,
        start_new_session=True,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
    )


def stop(process: Process, *, timeout_seconds: float, by: int = signal.SIGTERM) -> int:
    """Ask a process to end, kill its group if it does not, and answer its exit code."""
    if process.poll() is None:
        process.send_signal(by)
        try:
            process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.wait(10)
