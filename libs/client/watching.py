"""Following a stream of changes to its end: one that breaks is taken up where it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

import grpc

from libs.client.errors import from_rpc_error

_RECONNECT_SECONDS = 1.0


class Change(Protocol):
    """A message of such a stream."""

    @property
    def resume_token(self) -> str:
        """Where to go on."""


Told = TypeVar("Told", bound=Change)
Subject = TypeVar("Subject")


async def followed(
    watch: Callable[[str], AsyncIterable[Told]],
    *,
    subject_of: Callable[[Told], Subject],
    has_ended: Callable[[Subject], bool],
    get: Callable[[], Awaitable[Subject]],
) -> AsyncIterator[Subject]:
    """Each change, until the end.

    Args:
        watch: opens a stream from a token on; an empty one: from now.
        subject_of: what a message is about.
        has_ended: whether it will change no more.
        get: it as it stands.

    Raises DarkroomError where the stream is refused.
    """
    resume_token = ""
    while True:
        try:
            async for change in watch(resume_token):
                resume_token = change.resume_token
                subject = subject_of(change)
                yield subject
                if has_ended(subject):
                    return
            # Ended without the end: it had been seen by a stream that broke right after it.
            yield await get()
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise from_rpc_error(error) from error
            await asyncio.sleep(_RECONNECT_SECONDS)
