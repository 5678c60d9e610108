"""Services for tests as forks of a process that has imported them, since importing is most of what a start costs.

A fork runs the service's own `run` with the environment it is given, as `python -m services.<name>` does: what it logs,
how it ends and how it dies are the same. gRPC has started no thread before the fork, so that it does not notice.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, get_args

import boto3

from libs.common.adapters.registry import adapters
from libs.common.settings import ServiceName
from sandbox import processes
from tests.support.cluster.place import Place, command_at

_PREFIX = "services."
_FORKED = (_PREFIX, "libs.")
_MESSAGE_LIMIT = 1 << 20
_LOOK_SECONDS = 0.01
_NURSERY_SECONDS = 60.0


class Forked:
    """A forked service, handled as `subprocess.Popen` is."""

    def __init__(self, pid: int, told: socket.socket, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.returncode is None:
            try:
                said = self._told.recv(32)
            except BlockingIOError:
                return None
            # A nursery that has gone takes its forks with it.
            self.returncode = int(said) if said else -signal.SIGKILL
            self._told.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. subprocess.TimeoutExpired where that takes longer."""
        deadline = time.monotonic() + (timeout if timeout is not None else float("inf"))
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(_LOOK_SECONDS)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            # It may end at this moment, as any process may.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def __del__(self) -> None:
        """Let go of it, as Popen does of one that nobody waits for."""
        self._told.close()


class Nursery:
    """The process that is forked."""

    def __init__(self, folder: Path, path: str) -> None:
        self._address = folder / "nursery"
        command = [sys.executable, "-m", "tests.support.nursery", str(self._address)]
        environment = {"PYTHONPATH": path, "PATH": os.environ.get("PATH", ""), "GRPC_ENABLE_FORK_SUPPORT": "0"}
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)

    def start(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str], place: Place | None = None
    ) -> subprocess.Popen[bytes] | Forked:
        """Start a module of ours as a fork, at a place if one is given; anything else as itself."""
        words = [str(part) for part in command]
        if len(words) < 3 or words[1] != "-m" or not words[2].startswith(_FORKED):
            return processes.start(command if place is None else command_at(place, words), environment=environment)
        reader, writer = os.pipe()
        told = self._connected()
        wanted = {
            "module": words[2],
            "arguments": words[3:],
            "environment": dict(environment),
            "place": place.as_json() if place else None,
        }
        request = json.dumps(wanted).encode()
        socket.send_fds(told, [len(request).to_bytes(4, "big")], [writer])
        told.sendall(request)
        os.close(writer)
        pid = int.from_bytes(told.recv(4, socket.MSG_WAITALL), "big")
        told.setblocking(False)
        return Forked(pid, told, os.fdopen(reader, "rb"))

    def close(self) -> None:
        """End it."""
        processes.stop(self._process, timeout_seconds=5)

    def _connected(self) -> socket.socket:
        deadline = time.monotonic() + _NURSERY_SECONDS
        while True:
            found = socket.socket(socket.AF_UNIX)
            try:
                found.connect(str(self._address))
            except (FileNotFoundError, ConnectionRefusedError):
                found.close()
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(_LOOK_SECONDS)
            else:
                return found


def _serve(address: str) -> None:
    """Import all services, then fork one for each that asks, and tell it how its fork ended."""
    for name in get_args(ServiceName):
        importlib.import_module(f"{_PREFIX}{name}.__main__")
    # What takes long in every service's start: importing the adapters and the database's driver, and boto3's reading of
    # its models, which its default session keeps.
    adapters()
    importlib.import_module("psycopg2")
    boto3.client("s3", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                _take(listener, selector)
            else:
                _tell(key.fd, key.data, selector)


def _take(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    told, _ = listener.accept()
    size, (output,), _, _ = socket.recv_fds(told, 4, 1)
    request = json.loads(told.recv(min(_MESSAGE_LIMIT, int.from_bytes(size, "big")), socket.MSG_WAITALL))
    pid = os.fork()
    if pid == 0:
        _live(request, output)
    os.close(output)
    told.sendall(pid.to_bytes(4, "big"))
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))


def _tell(handle: int, child: tuple[int, socket.socket], selector: selectors.BaseSelector) -> None:
    pid, told = child
    selector.unregister(handle)
    os.close(handle)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # Whoever asked may not care any more.
    with contextlib.suppress(OSError):
        told.sendall(str(code).encode())
    told.close()


def _live(request: Mapping[str, Any], output: int) -> None:
    """Be the service, and never come back."""
    os.setsid()
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(request["environment"])
    code: Any = 0
    try:
        if request["place"] is not None:
            Place.from_json(request["place"]).enter()
        _run(request["module"], request["arguments"])
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _run(module: str, arguments: Sequence[str]) -> None:
    sys.argv = [module, *arguments]
    if module.startswith(_PREFIX):
        service = importlib.import_module(f"{module}.__main__")
        service.run(module.removeprefix(_PREFIX), service.wire)
    else:
        runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
