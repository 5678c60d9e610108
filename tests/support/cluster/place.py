"""Where a container's process lives: a network and a host name of its own, volumes at their paths, a read-only root."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[3]
_NETWORKS = Path("/run/netns")
_TEMPORARY = Path("/tmp")
_NEW_MOUNTS, _NEW_NAMES, _NEW_NETWORK = 0x00020000, 0x04000000, 0x40000000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Place:
    """What a process enters before it is a container's.

    Args:
        network: the name of a network namespace.
        host: what the process takes for the name of its machine.
        volumes: by path in the container, the folder that is seen there, read-only.
        user_id: whom it runs as; None: as who starts it.
    """

    network: str
    host: str
    volumes: Mapping[str, str]
    user_id: int | None = None

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """What `as_json` has written."""
        return cls(**given)

    def as_json(self) -> dict[str, Any]:
        """Itself, for another process."""
        return {
            "network": self.network,
            "host": self.host,
            "volumes": dict(self.volumes),
            "user_id": self.user_id,
        }

    def enter(self) -> None:
        """Go there, with all that this process will do."""
        network = os.open(_NETWORKS / self.network, os.O_RDONLY)
        _did(_libc.setns(network, _NEW_NETWORK))
        _did(_libc.unshare(_NEW_MOUNTS | _NEW_NAMES))
        socket.sethostname(self.host)
        _mount("none", "/", _RECURSIVE | _PRIVATE)
        # Opened in these mounts, since it can be mounted in no others.
        project = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
        for path, source in sorted(self.volumes.items()):
            _mount(source, path, _BIND)
            _mount(source, path, _BIND | _REMOUNT | _READ_ONLY)
        mount_memory(str(_TEMPORARY))
        if ROOT.is_relative_to(_TEMPORARY):
            ROOT.mkdir(parents=True)
            _mount(f"/proc/self/fd/{project}", str(ROOT), _BIND)
        _mount("none", "/", _BIND | _REMOUNT | _READ_ONLY)
        os.close(network)
        os.close(project)
        os.chdir(ROOT)
        if self.user_id is not None:
            os.setgroups([])
            os.setgid(self.user_id)
            os.setuid(self.user_id)


def bind(source: Path, path: str) -> None:
    """Let `source` be seen at `path`, by this process and those that it starts."""
    _mount(str(source), path, _BIND)


def mount_memory(path: str) -> None:
    """Let an empty folder in memory be seen at `path`, likewise."""
    _mount("tmpfs", path, 0, kind="tmpfs")


def _mount(source: str, path: str, flags: int, *, kind: str | None = None) -> None:
    _did(_libc.mount(source.encode(), path.encode(), kind.encode() if kind else None, flags, None))


def _did(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def command_at(place: Place, command: Sequence[str]) -> list[str]:
    """A command line that goes to the place and becomes the command."""
    return [sys.executable, "-m", "tests.support.cluster.enter", json.dumps(place.as_json()), *command]
