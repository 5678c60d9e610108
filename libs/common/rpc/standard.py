"""The interceptors of every server."""

from __future__ import annotations

import grpc

from libs.common import tracing
from libs.common.rpc.arrivals import Arrivals
from libs.common.rpc.credentials import is_keyless
from libs.common.rpc.deadlines import Deadline, is_repeatable
from libs.common.rpc.interceptors import Before, BoundWrites, MapErrors, Observe, RequestId, Trace
from libs.common.rpc.receiving import Parse, Together
from libs.common.rpc.sharing import ShareOut, Sharing
from libs.common.rpc.unsent import Unsent

_MESSAGE_SECONDS = 30.0
_HEALTH_WAITING = 50


def standard(
    guard: Before,
    *,
    rpc_timeout_seconds: float,
    write_timeout_seconds: float,
    sharing: Sharing,
    message_seconds: float = _MESSAGE_SECONDS,
    keyless_waiting: int = 500,
) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of every server, as one.

    Args:
        guard: decides who may call.
        rpc_timeout_seconds: the most that a unary call may take.
        write_timeout_seconds: how long a reader may take for one answer.
        sharing: what callers may hold.
        message_seconds: how long the message of a call may take.
        keyless_waiting: how many calls that need no key may wait for theirs, and how many may have an unsent answer.
    """
    unsent = Unsent(seconds=write_timeout_seconds, keyless=keyless_waiting, callers=sharing.callers)
    interceptors: list[grpc.aio.ServerInterceptor] = [
        BoundWrites(write_timeout_seconds, unsent),
        RequestId(),
        *([Trace()] if tracing.is_on() else []),
        Observe(),
        MapErrors(),
        guard,
        ShareOut(sharing),
        Parse(sharing, is_repeatable),
        # Within Parse, for it looks into requests.
        Deadline(rpc_timeout_seconds),
    ]
    arrivals = Arrivals(seconds=message_seconds, keyless=keyless_waiting, callers=sharing.callers)
    return [Together(interceptors, arrivals=arrivals, unsent=unsent, callers=sharing.callers, is_keyless=is_keyless)]


def for_health(*, write_timeout_seconds: float, sharing: Sharing) -> list[grpc.aio.ServerInterceptor]:
    """The interceptors of a server that answers for health alone, as one. The arguments are those of `standard`."""
    unsent = Unsent(seconds=write_timeout_seconds, keyless=_HEALTH_WAITING, callers=sharing.callers)
    interceptors: list[grpc.aio.ServerInterceptor] = [
        BoundWrites(write_timeout_seconds, unsent),
        MapErrors(),
        ShareOut(sharing),
        Parse(sharing, is_repeatable),
    ]
    arrivals = Arrivals(seconds=_MESSAGE_SECONDS, keyless=_HEALTH_WAITING, callers=sharing.callers)
    return [Together(interceptors, arrivals=arrivals, unsent=unsent, callers=sharing.callers, is_keyless=is_keyless)]
