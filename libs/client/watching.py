"""Following a stream of changes to its end: one that breaks is taken up where it broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
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
Told_co = TypeVar("Told_co", bound=Change, covariant=True)
Subject = TypeVar("Subject")


class Stream(Protocol[Told_co]):
    """An RPC that answers with such messages."""

    def __aiter__(self) -> AsyncIterator[Told_co]:
        """Read the messages."""

    def cancel(self) -> bool:
        """End the RPC. Returns False if it has ended before."""


async def followed(
    watch: Callable[[str], Stream[Told]],
    *,
    subject_of: Callable[[Told], Subject],
    has_ended: Callable[[Subject], bool],
    get: Callable[[], Awaitable[Subject]],
) -> AsyncGenerator[Subject, None]:
    """Each change, until the end. Each RPC is cancelled once it is read no longer, also where the iteration is closed.

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
            stream = watch(resume_token)
            try:
                async for change in stream:
                    resume_token = change.resume_token
                    subject = subject_of(change)
                    yield subject
                    if has_ended(subject):
                        return
            finally:
                stream.cancel()
            # Ended without the end: it had been seen by a stream that broke right after it.
            yield await get()
            return
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise from_rpc_error(error) from error
            await asyncio.sleep(_RECONNECT_SECONDS)
