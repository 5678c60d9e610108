"""Blocks addresses at a listening socket: the kernel drops their packets, so that they cannot open connections.

Connections that are open already are not affected. Linux only, without privileges: a classic BPF program is attached
with SO_ATTACH_FILTER, see socket(7). Source of the encoding: Documentation/networking/filter.rst of Linux.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MOST_ADDRESSES = 200
"""The most addresses that one socket can block: of 4,096 instructions an IPv6 network needs five."""
_ATTACH, _DETACH = 26, 27
_LOAD_WORD, _LOAD_BYTE, _SHIFT_RIGHT, _JUMP, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x30, 0x74, 0x05, 0x15, 0x06
# SKF_NET_OFF: offsets from the beginning of the IP header.
_IP_HEADER = 0xFFF00000
_IPV4_SOURCE, _IPV6_SOURCE, _IPV6_SOURCE_LOW = _IP_HEADER + 12, _IP_HEADER + 8, _IP_HEADER + 12
_WHOLE_PACKET = 0xFFFFFFFF


class _Instruction(NamedTuple):
    """struct sock_filter of linux/filter.h: `if_true` and `if_false` are the numbers of instructions to skip."""

    code: int
    operand: int = 0
    if_true: int = 0
    if_false: int = 0

    def packed(self) -> bytes:
        return struct.pack("HBBI", self.code, self.if_true, self.if_false, self.operand)


def block(listener: socket.socket, networks: Iterable[str]) -> None:
    """Replace the addresses that a listening socket blocks.

    Args:
        listener: of IPv4 or IPv6.
        networks: as `network_of` returns them: IPv4 addresses and /64 networks of IPv6. Those beyond `MOST_ADDRESSES`
            are not blocked. None at all: nothing is blocked any more.

    Raises:
        OSError: the kernel does not support it.
    """
    found = [ipaddress.ip_network(network) for network in networks][:MOST_ADDRESSES]
    if not found:
        listener.setsockopt(socket.SOL_SOCKET, _DETACH, 0)
        return
    instructions = list(_program(found))
    content = ctypes.create_string_buffer(b"".join(one.packed() for one in instructions))
    # struct sock_fprog: the number of instructions and the address of the first.
    program = struct.pack("HL", len(instructions), ctypes.addressof(content))
    listener.setsockopt(socket.SOL_SOCKET, _ATTACH, program)


def _program(networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> Iterator[_Instruction]:
    """Yield a program that accepts a packet unless its source is in one of the networks."""
    accept = _Instruction(_RETURN, _WHOLE_PACKET)
    ipv4: list[_Instruction] = [_Instruction(_LOAD_WORD, _IPV4_SOURCE)]
    ipv6: list[_Instruction] = []
    for network in networks:
        number = int(network.network_address)
        if isinstance(network, ipaddress.IPv4Network):
            ipv4 += (_Instruction(_JUMP_IF_EQUAL, number, 0, 1), _Instruction(_RETURN))
        else:
            ipv6 += (
                _Instruction(_LOAD_WORD, _IPV6_SOURCE),
                _Instruction(_JUMP_IF_EQUAL, number >> 96, 0, 3),
                _Instruction(_LOAD_WORD, _IPV6_SOURCE_LOW),
                _Instruction(_JUMP_IF_EQUAL, number >> 64 & 0xFFFFFFFF, 0, 1),
                _Instruction(_RETURN),
            )
    # The version of IP decides.
    yield from (_Instruction(_LOAD_BYTE, _IP_HEADER), _Instruction(_SHIFT_RIGHT, 4))
    yield from (_Instruction(_JUMP_IF_EQUAL, 4, 1, 0), _Instruction(_JUMP, len(ipv4) + 1))
    yield from (*ipv4, accept, _Instruction(_JUMP_IF_EQUAL, 6, 1, 0), accept, *ipv6, accept)
