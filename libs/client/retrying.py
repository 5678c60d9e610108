"""Repeats a create that carries an idempotency key, so that a lost answer creates nothing twice."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import grpc

from libs.client.errors import DarkroomError, from_rpc_error

Answer = TypeVar("Answer")
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.2, 3.0
_REPEATED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def new_idempotency_key() -> str:
    """Return an idempotency key for one logical call and its repeats."""
    return str(uuid.uuid4())


async def repeated(call: Callable[[float], Awaitable[Answer]], *, seconds: float) -> Answer:
    """Make a call, and repeat it while its answer is UNAVAILABLE or a retryable DEADLINE_EXCEEDED.

    gRPC's own retry policy repeats a few times within each call; this goes on until the deadline, for instance while a
    gateway restarts.

    Args:
        call: makes the call, with the seconds that are left as its deadline. It must carry an idempotency key, and the
            same each time.
        seconds: the deadline of all of it.

    Raises:
        DarkroomError: what the last call ended with.
    """
    until, wait_seconds = monotonic() + seconds, _FIRST_WAIT_SECONDS
    while True:
        try:
            return await call(max(0.0, until - monotonic()))
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error)
            pause = max(random.uniform(0, wait_seconds), failure.retry_after_seconds or 0.0)
            if not _may_repeat(error, failure) or monotonic() + pause >= until:
                raise failure from error
        await asyncio.sleep(pause)
        wait_seconds = min(2 * wait_seconds, _LONGEST_WAIT_SECONDS)


def _may_repeat(error: grpc.aio.AioRpcError, failure: DarkroomError) -> bool:
    return error.code() in _REPEATED and failure.is_retryable
