"""Runs code in an image worker's place, started and confined as one, beside a process that stands for the service.

`python -m tests.support.confined UID FOLDER PORT PLACE` prints, by name, why each attempt failed; null if it did not.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from libs.common.imaging import worker
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import ENVIRONMENT, command
from libs.common.isolation.kernel import hide_memory

SECRET = "what only the service may know"
_LIBC = ctypes.CDLL(None, use_errno=True)
_TRACE_ATTACH, _TRACE_SEIZE, _SHOWN = 16, 0x4206, 1
Attempts = dict[str, Callable[[], object]]


def _called(function: str, *arguments: int) -> int:
    result = int(_LIBC[function](*(ctypes.c_long(one) for one in arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), function)
    return result


def _opened(path: Path) -> None:
    with path.open("rb"):
        pass


def _connect(port: int) -> None:
    with socket.socket() as client:
        client.connect(("127.0.0.1", port))


def common(service: int, folder: Path, port: int) -> Attempts:
    """What any process of the service's user can do."""
    return {
        "environ of the service": lambda: _opened(Path(f"/proc/{service}/environ")),
        "memory of the service": lambda: _opened(Path(f"/proc/{service}/mem")),
        "file with secrets": lambda: _opened(folder / "secret"),
        "list a folder": lambda: list(folder.iterdir()),
        "tcp": lambda: _connect(port),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "socket pair": socket.socketpair,
        "write a file": lambda: (folder / "new").write_text("x"),
        "rename a file": lambda: (folder / "a").rename(folder / "b"),
        "change a mode": lambda: (folder / "b").chmod(0o600),
        "truncate a file": lambda: os.truncate(folder / "b", 0),
        "delete a file": (folder / "b").unlink,
        "make a folder": (folder / "c").mkdir,
        "signal the service": lambda: os.kill(service, 0),
        "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    }


def beyond(service: int) -> Attempts:
    """What would change the process or the service, and is therefore tried in a worker's place alone."""
    return {
        "fork": os.fork,
        "exec": lambda: _called("execve", 0, 0, 0),
        "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "trace the service": lambda: _called("ptrace", _TRACE_ATTACH, service, 0, 0),
        "seize the service": lambda: _called("ptrace", _TRACE_SEIZE, service, 0, 0),
        "read another process": lambda: _called("process_vm_readv", service, 0, 0, 0, 0, 0),
        "pidfd": lambda: os.pidfd_open(service),
        "signal every process": lambda: os.kill(-1, 0),
        "another user": lambda: os.setuid(1),
        "mount": lambda: _called("mount", 0, 0, 0, 0, 0),
        "namespaces": lambda: _called("unshare", 0x10000000),
        "memory file": lambda: os.memfd_create("x"),
        "kernel keys": lambda: _called("syscall", 248, 0, 0, 0, 0, 0),
    }


def told(attempts: Attempts) -> dict[str, str | None]:
    """Why each attempt failed; None if it did not."""
    outcomes: dict[str, str | None] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError as error:
            outcomes[name] = str(error)
        else:
            outcomes[name] = None
    return outcomes


def main(service: str, folder: str, port: str) -> None:
    """In a worker's place: confined as one, and taken over."""
    worker.load()
    missing = worker.confine(WorkerLimits())
    attempts = {**common(int(service), Path(folder), int(port)), **beyond(int(service))}
    print(json.dumps({"missing": missing, "outcomes": told(attempts)}), flush=True)


def _in_workers_place(arguments: tuple[str, str, str]) -> str:
    if os.access(sys.executable, os.X_OK):
        started = command("tests.support.confined", *arguments)
        return subprocess.run(started, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    # An interpreter that the user may not execute: the same without the start.
    return _forked(lambda: main(*arguments))


def _forked(work: Callable[[], None]) -> str:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        work()
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    os.waitpid(child, 0)
    return answer


def _service(user: int, folder: str, port: str, place: str) -> None:
    """Stand for a service of that user: one that is hidden, with or without confined workers; or one that is not."""
    worker.load()
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    hide_memory()
    if place == "shown":
        _called("prctl", 4, _SHOWN, 0, 0, 0)
    service = os.getpid()
    if place == "worker":
        print(_in_workers_place((str(service), folder, port)))
        return
    outcomes = common(service, Path(folder), int(port))
    print(_forked(lambda: print(json.dumps({"missing": {}, "outcomes": told(outcomes)}))))


if __name__ == "__main__":
    _service(int(sys.argv[1]), *sys.argv[2:])
