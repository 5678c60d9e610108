"""Confines this process with every protection that the kernel supports, and reports those that it does not support."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping

from libs.common.isolation import kernel, landlock, seccomp

# In this order: namespaces need system calls that the filter forbids, Landlock and the filter need no_new_privs.
PROTECTIONS: Mapping[str, Callable[[], None]] = {
    "no_new_privs": kernel.forbid_new_privileges,
    "namespaces": kernel.leave_namespaces,
    "capabilities": kernel.drop_capabilities,
    "landlock": landlock.restrict,
    "hidden_memory": kernel.hide_memory,
    "seccomp": seccomp.restrict,
}
"""By the names that logs and docs have for them."""


def confine() -> dict[str, str]:
    """Apply all protections, for good. Returns why, by name, for each that the kernel does not allow.

    The process must have one thread, and must have loaded all that it needs: it opens no file any more.
    """
    missing = {}
    for name, apply in PROTECTIONS.items():
        try:
            apply()
        except (OSError, AttributeError) as error:
            missing[name] = str(error)
    return missing


def main() -> None:
    """Print, as JSON, what `confine` returns in a process like this one."""
    sys.stdout.write(json.dumps(confine()))
    sys.stdout.flush()
