"""The memory of a service's process: returned to the system after use, and hidden from other processes."""

from __future__ import annotations

import contextlib
import ctypes

import structlog

from libs.common.isolation.kernel import hide_memory

log = structlog.get_logger()
# From malloc.h.
_M_ARENA_MAX = -8
_ARENAS = 2


def limit_arenas() -> None:
    """Limit the arenas of glibc's malloc to two, so that freed memory is returned to the system.

    By default glibc keeps up to eight arenas per processor, each with free fragments that requests have left. Source:
    mallopt(3). Other C libraries have no such option; nothing changes there.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def protect_memory() -> None:
    """Hide the memory and the environment of this process, which contain secrets, from other processes of its user."""
    try:
        hide_memory()
    except (OSError, AttributeError) as error:
        log.warning("the memory of this process is readable for others of its user", why=str(error))
