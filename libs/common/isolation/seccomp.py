"""A seccomp filter for a process that only computes: it may use memory and the files that are open, and nothing else.

All other system calls fail with EPERM. The filter is a program for the kernel's classic BPF machine (seccomp(2),
linux/seccomp.h, linux/filter.h, linux/audit.h). libseccomp would assemble it too, but is in no wheel and not in the
images that services run in.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

from libs.common.isolation import kernel

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _ALL_THREADS = 1, 1

# Without conditions. x86_64, aarch64.
_ALLOWED: dict[str, tuple[int, int]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "brk": (12, 214),
    "madvise": (28, 233),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "set_tid_address": (218, 96),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getcpu": (309, 168),
    "getrusage": (98, 165),
    # Pillow makes an absolute path of the name of a file, of none as well.
    "getcwd": (79, 17),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Memory that is not executable alone.
_MMAP, _MPROTECT = (9, 222), (10, 226)
# A thread of this process alone: libde265 starts one. The C library calls clone where there is no clone3, whose
# arguments lie where a filter cannot look.
_CLONE, _CLONE3 = (56, 220), (435, 435)
# Of this process alone: a worker grants itself processor time, and abort(3) signals itself.
_PRLIMIT, _TGKILL = (302, 261), (234, 131)

_PROT_EXEC = 4
_THREAD = 0x100 | 0x800 | 0x10000  # CLONE_VM, CLONE_SIGHAND, CLONE_THREAD
_NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and NEWTIME

_LOAD, _AND, _IF_EQUAL, _IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16

_Instruction = tuple[int, int, int, int]
_DENY: _Instruction = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
_PERMIT: _Instruction = (_RETURN, 0, 0, _ALLOW)


def restrict() -> None:
    """Filter all threads of this process, for good. Needs no_new_privs. OSError where the kernel does not take it."""
    machine = kernel.machine()
    content = b"".join(struct.pack("=HBBI", *one) for one in _program(machine, os.getpid()))
    instructions = ctypes.create_string_buffer(content, len(content))
    # struct sock_fprog: the length, padded, and the address.
    program = struct.pack("@HP", len(content) // 8, ctypes.addressof(instructions))
    kernel.call(_SECCOMP[machine], _SET_MODE_FILTER, _ALL_THREADS, program)


def _program(machine: str, pid: int) -> Iterator[_Instruction]:
    """Instructions: operation, how many to skip if a comparison holds and if it does not, operand."""
    column = list(_ARCHITECTURES).index(machine)
    yield (_LOAD, 0, 0, _AT_ARCHITECTURE)
    yield (_IF_EQUAL, 1, 0, _ARCHITECTURES[machine])
    yield (_RETURN, 0, 0, _KILL)
    yield (_LOAD, 0, 0, _AT_NUMBER)
    for numbers in _ALLOWED.values():
        yield from _when(numbers[column], [_PERMIT])
    for numbers in (_MMAP, _MPROTECT):
        yield from _when(numbers[column], [_argument(2), (_IF_ANY_BIT, 0, 1, _PROT_EXEC), _DENY, _PERMIT])
    only_thread: _Instruction = (_AND, 0, 0, _THREAD | _NAMESPACES)
    yield from _when(_CLONE[column], [_argument(0), only_thread, (_IF_EQUAL, 0, 1, _THREAD), _PERMIT, _DENY])
    yield from _when(_CLONE3[column], [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)])
    for numbers, only in ((_PRLIMIT, 0), (_TGKILL, pid)):
        yield from _when(numbers[column], [_argument(0), (_IF_EQUAL, 0, 1, only), _PERMIT, _DENY])
    yield _DENY


def _when(number: int, then: list[_Instruction]) -> list[_Instruction]:
    """Instructions that are run for one system call; each list ends with a return."""
    return [(_IF_EQUAL, 0, len(then), number), *then]


def _argument(position: int) -> _Instruction:
    """Load the lower half of an argument: both architectures are little-endian, and what is compared has 32 bits."""
    return (_LOAD, 0, 0, _AT_ARGUMENTS + 8 * position)
