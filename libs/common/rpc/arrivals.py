"""Calls whose one message has not arrived: gRPC begins a call with its headers, and waits for the message for ever."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from time import monotonic
from typing import Any

import grpc

from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.callers import Callers
from libs.common.rpc.semaphores import KeyedSemaphores
from libs.common.rpc.shares import current_holder

_SWEEP_SECONDS = 1.0
# The size of a message is unknown until it is received; each of these may have up to `grpc_message_limit_bytes`.
_OF_KEY_AT_ONCE = 16


class Arrivals:
    """Waits for messages.

    Args:
        seconds: how long one may take.
        keyless: how many calls without a key may wait at once. Beyond that the oldest is ended: the message of a probe
            follows its headers immediately, so a probe is not the oldest.
        callers: whose messages are counted.
    """

    def __init__(self, *, seconds: float, keyless: int, callers: Callers) -> None:
        self._seconds = seconds
        self._callers = callers
        self._keyless_limit = keyless
        self._since: dict[asyncio.Task[Any], float] = {}
        self._keyless: dict[asyncio.Task[Any], None] = {}
        self._ended: dict[asyncio.Task[Any], GenerationError] = {}
        self._messages = KeyedSemaphores()
        self._timer: asyncio.TimerHandle | None = None

    async def message(self, context: grpc.aio.ServicerContext[Any, Any], *, is_keyless: bool) -> bytes:
        """The message of a call.

        Raises GenerationError INVALID_REQUEST for a call without one, DEADLINE_EXCEEDED where it does not come in time,
        RATE_LIMITED where too many wait.
        """
        task = asyncio.current_task()
        assert task is not None
        self._since[task] = monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        if is_keyless:
            self._make_room(task)
        try:
            async with self._turn_of(current_holder().key):
                with self._callers.receiving(context.peer()) as count:
                    message = await context.read()
                    if message is not grpc.aio.EOF:
                        count(len(message))
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise self._ended[task] from None
        finally:
            del self._since[task]
            self._keyless.pop(task, None)
            self._ended.pop(task, None)
        if message is grpc.aio.EOF:
            raise GenerationError(ErrorCode.INVALID_REQUEST, "The call has no message.")
        return bytes(message)

    def _turn_of(self, key: str) -> AbstractAsyncContextManager[None]:
        """Return the semaphore that limits how many messages of one key are received at once."""
        return self._messages.get(key, _OF_KEY_AT_ONCE) if key else nullcontext()

    def _make_room(self, task: asyncio.Task[Any]) -> None:
        self._keyless[task] = None
        if len(self._keyless) > self._keyless_limit:
            oldest = next(iter(self._keyless))
            del self._keyless[oldest]
            self._end(oldest, GenerationError(ErrorCode.RATE_LIMITED, "Too many calls wait for their message."))

    def _sweep(self) -> None:
        self._timer = None
        now = monotonic()
        for task, since in list(self._since.items()):
            if now - since < self._seconds:
                # The oldest come first.
                break
            late = f"The message did not come within {self._seconds:g} s."
            self._end(task, GenerationError(ErrorCode.DEADLINE_EXCEEDED, late))
        if self._since:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _end(self, task: asyncio.Task[Any], error: GenerationError) -> None:
        if task not in self._ended:
            self._ended[task] = error
            task.cancel()


class Unread:
    """The message of a call that is not received before the caller is authenticated."""

    __slots__ = ("_arrivals", "_context", "_is_keyless")

    def __init__(self, arrivals: Arrivals, context: grpc.aio.ServicerContext[Any, Any], *, is_keyless: bool) -> None:
        self._arrivals = arrivals
        self._context = context
        self._is_keyless = is_keyless

    async def message(self) -> bytes:
        """Receive it. Raises as `Arrivals.message`."""
        return await self._arrivals.message(self._context, is_keyless=self._is_keyless)
