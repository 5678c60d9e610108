"""The TCP connections of this process, whichever library holds them: found, asked what the kernel counts, and reset.

Linux alone: connections and descriptors are listed by /proc, and counts are read by TCP_INFO (tcp(7)).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

_PEERS_LIMIT = 8_192
# struct tcp_info of linux/tcp.h: tcpi_last_data_recv (milliseconds), tcpi_bytes_acked and tcpi_bytes_received.
_IDLE_MS_AT, _ACKED_AT, _RECEIVED_AT, _INFO_BYTES = 52, 120, 128, 136
_DESCRIPTORS, _SOCKET, _LINK_BYTES = b"/proc/self/fd/", b"socket:[", 64
# struct sockaddr with AF_UNSPEC.
_NOWHERE = bytes(16)


class _Entry(ctypes.Structure):
    """struct dirent of Linux on 64 bits."""

    _fields_ = (
        ("inode", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("name", ctypes.c_char * 256),
    )


# PyDLL keeps the interpreter's lock: Python's own functions let go of it for each file, and would wait up to 5 ms for
# it each time that another thread is busy.
_libc = ctypes.PyDLL(None)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.argtypes, _libc.readdir.restype = (ctypes.c_void_p,), ctypes.POINTER(_Entry)
_libc.closedir.argtypes = (ctypes.c_void_p,)


class Endpoint(NamedTuple):
    """An address and a port, as the peer of a connection."""

    host: str
    port: int


class Ends(NamedTuple):
    """A connection: the port that it came to, and its peer."""

    port: int
    peer: Endpoint


def sockets() -> dict[int, int]:
    """The file descriptor of each socket of this process, by its inode, which no other gets while it is open."""
    found: dict[int, int] = {}
    link = ctypes.create_string_buffer(_LINK_BYTES)
    listing = _libc.opendir(_DESCRIPTORS)
    if not listing:
        # There is no descriptor left for it, for instance.
        return found
    while entry := _libc.readdir(listing):
        name = entry.contents.name
        size_bytes = _libc.readlink(_DESCRIPTORS + name, link, _LINK_BYTES)
        if size_bytes > 0 and link.raw.startswith(_SOCKET):
            found[int(link.raw[len(_SOCKET) : size_bytes - 1])] = int(name)
    _libc.closedir(listing)
    return found


def ends_of(descriptor: int, ports: Container[int]) -> Ends | None:
    """The ends of the connection of a socket; None for one that is no connection to any of the ports."""
    with suppress(OSError), _borrowed(descriptor) as borrowed:
        if borrowed.family in {socket.AF_INET, socket.AF_INET6} and borrowed.type == socket.SOCK_STREAM:
            port = borrowed.getsockname()[1]
            return Ends(port, _peer_of(borrowed)) if port in ports else None
    return None


def received_bytes(descriptor: int) -> int:
    """How much a peer has sent on a connection; 0 where the kernel does not tell, or the connection has ended."""
    return _counted(descriptor, "Q", _RECEIVED_AT)


def taken_bytes(descriptor: int) -> int:
    """How much of what was sent a peer's kernel has taken; 0 as for `received_bytes`, and on other systems."""
    return _counted(descriptor, "Q", _ACKED_AT) if sys.platform == "linux" else 0


def idle_ms(descriptor: int) -> int:
    """The milliseconds since a peer last sent anything; 0 as for `received_bytes`."""
    return _counted(descriptor, "I", _IDLE_MS_AT)


def reset(descriptor: int, ends: Ends) -> None:
    """Reset a connection, so that what it has sent and nobody has read is gone. Its owner, a library, then closes it.

    By connecting it to nowhere, see connect(2): a shutdown would leave to be read what has come already.
    """
    with suppress(OSError), _borrowed(descriptor) as borrowed:
        # The descriptor may be another socket's by now.
        if borrowed.getsockname()[1] == ends.port and _peer_of(borrowed) == ends.peer:
            _libc.connect(borrowed.fileno(), _NOWHERE, len(_NOWHERE))


@lru_cache(_PEERS_LIMIT)
def endpoint_of(peer: str) -> Endpoint | None:
    """The endpoint that gRPC calls `ipv4:192.0.2.1:5000` or `ipv6:%5B2001:db8::1%5D:5000`; None for another kind."""
    family, _, rest = peer.partition(":")
    host, _, port = unquote(rest).rpartition(":")
    if family not in {"ipv4", "ipv6"} or not port.isdigit():
        return None
    return _endpoint(host.strip("[]"), int(port))


def _peer_of(connection: socket.socket) -> Endpoint:
    host, port, *_ = connection.getpeername()
    return _endpoint(host, port)


def _endpoint(host: str, port: int) -> Endpoint:
    return Endpoint(host.removeprefix("::ffff:") if "." in host else host, port)


def _counted(descriptor: int, kind: str, at: int) -> int:
    # What is read of another socket, whose the descriptor may be by now, harms nobody.
    info, size = ctypes.create_string_buffer(_INFO_BYTES), ctypes.c_uint32(_INFO_BYTES)
    failed = _libc.getsockopt(descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, info, ctypes.byref(size))
    return 0 if failed or size.value < _INFO_BYTES else int(struct.unpack_from(kind, info, at)[0])


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """The socket of a descriptor that a library may close, and the system give to another, at any time."""
    with socket.socket(fileno=os.dup(descriptor)) as borrowed:
        yield borrowed
