"""Lists, inspects and resets the TCP connections of this process, including those that a library opened.

Linux only: descriptors are listed from /proc, and counters are read with TCP_INFO (tcp(7)).
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


# PyDLL does not release the GIL. Functions of `os` release it for each file, and wait up to 5 ms to get it back while
# another thread is busy.
_libc = ctypes.PyDLL(None)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.argtypes, _libc.readdir.restype = (ctypes.c_void_p,), ctypes.POINTER(_Entry)
_libc.closedir.argtypes = (ctypes.c_void_p,)


class Endpoint(NamedTuple):
    """The address and the port of a peer."""

    host: str
    port: int


class Ends(NamedTuple):
    """The two ends of a connection: the local port and the peer."""

    port: int
    peer: Endpoint


def sockets() -> dict[int, int]:
    """Return the file descriptor of each socket of this process, by inode, which is unique while the socket is open."""
    found: dict[int, int] = {}
    link = ctypes.create_string_buffer(_LINK_BYTES)
    listing = _libc.opendir(_DESCRIPTORS)
    if not listing:
        # For example because the process has no free file descriptor.
        return found
    while entry := _libc.readdir(listing):
        name = entry.contents.name
        size_bytes = _libc.readlink(_DESCRIPTORS + name, link, _LINK_BYTES)
        if size_bytes > 0 and link.raw.startswith(_SOCKET):
            found[int(link.raw[len(_SOCKET) : size_bytes - 1])] = int(name)
    _libc.closedir(listing)
    return found


def ends_of(descriptor: int, ports: Container[int]) -> Ends | None:
    """Return the ends of a connection; None for a socket that is not a TCP connection to one of the local ports."""
    with suppress(OSError), borrowed(descriptor) as found:
        if found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM:
            port = found.getsockname()[1]
            return Ends(port, _peer_of(found)) if port in ports else None
    return None


def listening_port_of(descriptor: int) -> int | None:
    """Return the port of a listening TCP socket; None for other sockets."""
    with suppress(OSError), borrowed(descriptor) as found:
        is_tcp = found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM
        if is_tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return int(found.getsockname()[1])
    return None


def received_bytes(descriptor: int) -> int:
    """Return the bytes that the peer has sent; 0 if the kernel has no such counter or the connection has ended."""
    return _counted(descriptor, "Q", _RECEIVED_AT)


def taken_bytes(descriptor: int) -> int:
    """Return the bytes that the peer has acknowledged; 0 as for `received_bytes`, and on other systems than Linux."""
    return _counted(descriptor, "Q", _ACKED_AT) if sys.platform == "linux" else 0


def idle_ms(descriptor: int) -> int:
    """Return the milliseconds since the peer last sent data; 0 as for `received_bytes`."""
    return _counted(descriptor, "I", _IDLE_MS_AT)


def reset(descriptor: int, ends: Ends) -> None:
    """Reset a connection and discard the data in its receive queue. The library that owns it then closes it.

    It is connected to AF_UNSPEC, see connect(2), because after shutdown(2) the receive queue can still be read.
    """
    with suppress(OSError), borrowed(descriptor) as found:
        # The library may have closed the descriptor, and the system may have given it to another socket.
        if found.getsockname()[1] == ends.port and _peer_of(found) == ends.peer:
            _libc.connect(found.fileno(), _NOWHERE, len(_NOWHERE))


@contextmanager
def borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Yield a duplicate of a descriptor, because the library that owns it may close it at any time."""
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        yield duplicate


@lru_cache(_PEERS_LIMIT)
def endpoint_of(peer: str) -> Endpoint | None:
    """Parse gRPC's notation of a peer, `ipv4:192.0.2.1:5000` or `ipv6:%5B2001:db8::1%5D:5000`; None for other kinds."""
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
    # The descriptor may belong to another socket by now; to read that socket's counters does no harm.
    info, size = ctypes.create_string_buffer(_INFO_BYTES), ctypes.c_uint32(_INFO_BYTES)
    failed = _libc.getsockopt(descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, info, ctypes.byref(size))
    return 0 if failed or size.value < _INFO_BYTES else int(struct.unpack_from(kind, info, at)[0])
