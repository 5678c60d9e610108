"""Limits responses that their clients do not read. HTTP/2 flow control lets a client withhold any response for ever.

Such a call counts against gRPC's limit of concurrent calls after its handler has returned, and grpc.aio cannot cancel
it. Therefore the connection is reset.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from time import monotonic

from libs.common.rpc.callers import Callers
from libs.common.rpc.context import Context, when_done

_SWEEP_SECONDS = 1.0
_SLOWEST_BYTES_PER_SECOND = 16 * 1024
# A client that does not read a few of its streams keeps its other calls.
_STREAMS_OF_PEER = 20
_STREAMS = 500


class Unsent:
    """Tracks calls whose handlers have returned and whose responses are not sent.

    Args:
        seconds: the time that a client has to read a response, and one second more for each 16 KiB of it.
        keyless: the most unsent responses to calls without a key. Beyond that the connection of the oldest is reset.
        callers: receives the peers whose connections must be reset.
    """

    def __init__(self, *, seconds: float, keyless: int, callers: Callers) -> None:
        self._seconds = seconds
        self._keyless_limit = keyless
        self._callers = callers
        self._until: dict[Context, float] = {}
        self._keyless: dict[Context, None] = {}
        self._dropped: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def answered(self, context: Context, size_bytes: int, *, is_keyless: bool) -> None:
        """Track a unary call, whose handler returns now, until its response of `size_bytes` is sent."""
        self._until[context] = monotonic() + self._seconds + size_bytes / _SLOWEST_BYTES_PER_SECOND
        when_done(context, partial(self._sent, context))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        if is_keyless:
            self._keyless[context] = None
            if len(self._keyless) > self._keyless_limit:
                self._reset(next(iter(self._keyless)))

    def dropped(self, context: Context) -> None:
        """Track a stream that was ended because its client does not read, until the call is over."""
        peer = context.peer()
        self._dropped[peer] += 1
        when_done(context, partial(self._ended, peer))
        if self._dropped[peer] > _STREAMS_OF_PEER or self._dropped.total() > _STREAMS:
            self._callers.reset(peer, "unread")

    def _ended(self, peer: str) -> None:
        self._dropped[peer] -= 1
        if not self._dropped[peer]:
            del self._dropped[peer]

    def _sent(self, context: Context) -> None:
        self._until.pop(context, None)
        self._keyless.pop(context, None)

    def _reset(self, context: Context) -> None:
        self._sent(context)
        self._callers.reset(context.peer(), "unread")

    def _sweep(self) -> None:
        self._timer = None
        now = monotonic()
        for context in [context for context, until in self._until.items() if until < now]:
            self._reset(context)
        if self._until:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
