"""System calls that Python has no function for, through ctypes.

Numbers: Linux' `asm/unistd_64.h` (x86_64) and `asm-generic/unistd.h` (aarch64), constants from `linux/prctl.h`,
`linux/sched.h` and `linux/capability.h`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from functools import cache

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
# Version 3 of the capability interface, for this process; two times effective, permitted, inheritable.
_NO_CAPABILITIES = (struct.pack("=Ii", 0x20080522, 0), bytes(24))
_CAPSET = {"x86_64": 126, "aarch64": 91}


def machine() -> str:
    """The processor's architecture. OSError where it is neither x86_64 nor aarch64, whose system calls are known."""
    found = platform.machine()
    if found not in _CAPSET:
        raise OSError(f"system calls of {found} are not known")
    return found


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: int | bytes) -> int:
    """The result of a system call; bytes are passed by their address. OSError where it fails."""
    return _checked(
        _libc().syscall(
            ctypes.c_long(number),
            *(ctypes.c_long(one) if isinstance(one, int) else ctypes.c_char_p(one) for one in arguments),
        )
    )


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, value: int) -> None:
    _checked(_libc().prctl(option, *(ctypes.c_ulong(one) for one in (value, 0, 0, 0))))


def hide_memory() -> None:
    """Make /proc/<pid>/environ, mem and maps of this process unreadable for processes of its user (prctl(2), proc(5)).

    Also ends core dumps and tracing of this process by its user. A program that this process starts has it no more.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """No program that is executed from here gets more rights than this process has."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def leave_namespaces() -> None:
    """Enter new user, network and IPC namespaces: no interface is up in there, and rights hold in there alone."""
    _checked(_libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC))


def drop_capabilities() -> None:
    """Give up all capabilities, those of root as well."""
    call(_CAPSET[machine()], *_NO_CAPABILITIES)
