"""Open streams by the API key that they were opened with, so that they end when the key does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from libs.common.errors import GenerationError

End = Callable[[GenerationError], None]


class OpenStreams:
    """What is open, by the id of its key."""

    def __init__(self) -> None:
        self._ends: dict[str, set[End]] = {}

    @contextmanager
    def noted(self, key_id: str, end: End) -> Iterator[None]:
        """Call `end` if the key ends within the block. Without a key nothing is noted."""
        if not key_id:
            yield
            return
        ends = self._ends.setdefault(key_id, set())
        ends.add(end)
        try:
            yield
        finally:
            ends.discard(end)
            if not ends and self._ends.get(key_id) is ends:
                del self._ends[key_id]

    def keys(self) -> list[str]:
        """The ids of the keys that have streams."""
        return list(self._ends)

    def end(self, key_id: str, error: GenerationError) -> None:
        """End all streams of a key with an error."""
        for end in list(self._ends.get(key_id, ())):
            end(error)


class OpenStream:
    """A stream that another task may end: a context manager, which raises the error that `end` was given.

    A call that takes a stream of messages is cut off only while it waits for the next one (`reading`), so that what it
    has begun to commit ends as it would have.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._error: GenerationError | None = None
        self._may_be_cut = True

    def end(self, error: GenerationError) -> None:
        """End it with an error, now or before its next message."""
        if self._error is None:
            self._error = error
            if self._may_be_cut:
                self._task.cancel()

    async def reading(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages that it takes."""
        self._may_be_cut = False
        following = aiter(messages)
        while True:
            if self._error is not None:
                raise self._error
            self._may_be_cut = True
            try:
                message = await anext(following)
            except StopAsyncIteration:
                return
            finally:
                self._may_be_cut = False
            yield message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._error is not None and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            raise self._error from error
