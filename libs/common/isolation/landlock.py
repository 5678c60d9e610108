"""Takes all files from this process, and TCP ports and signals where the kernel can (landlock(7))."""

from __future__ import annotations

import os
import struct

from libs.common.isolation import kernel

# The same on all architectures.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION_FLAG = 1
# By the version of the interface: how many kinds of access to files there are. Source: linux/landlock.h.
_FILE_ACCESSES = {1: 13, 2: 14, 3: 15, 4: 15}
_MOST_FILE_ACCESSES = 16
_BIND_AND_CONNECT = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11
_HAS_PORTS, _HAS_SCOPES = 4, 6


def restrict() -> None:
    """Deny everything that the kernel's version of Landlock knows. Needs no_new_privs. OSError where it has none."""
    version = kernel.call(_CREATE_RULESET, 0, 0, _VERSION_FLAG)
    rules = struct.pack("=Q", (1 << _FILE_ACCESSES.get(version, _MOST_FILE_ACCESSES)) - 1)
    if version >= _HAS_PORTS:
        rules += struct.pack("=Q", _BIND_AND_CONNECT)
    if version >= _HAS_SCOPES:
        rules += struct.pack("=Q", _ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = kernel.call(_CREATE_RULESET, rules, len(rules), 0)
    try:
        kernel.call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
