"""Watchers: one question a tick for all that is watched here; a stream never asks by itself.

Whoever waits is handed the latest state that it has not seen: a reader that is slow misses steps, never the end, and
nothing piles up for it. Which replica changed the row does not matter.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import structlog

from libs.common import metrics
from libs.common.errors import ErrorCode, FieldViolation, GenerationError, InvalidRequest

log = structlog.get_logger()
_NOTHING_SEEN = ""
_STAMP_LIMIT = 100


class Change(Protocol):
    """Something as it stands."""

    @property
    def id(self) -> str:
        """What it is about."""

    @property
    def stamp(self) -> str:
        """Differs once it has changed again."""

    @property
    def is_final(self) -> bool:
        """Whether streams end with it."""


Changed = TypeVar("Changed", bound=Change)
Told_co = TypeVar("Told_co", bound=Change, covariant=True)


class Source(Protocol[Told_co]):
    """Where changes are read."""

    async def changes(self, stamps: Mapping[str, str]) -> Sequence[Told_co]:
        """Of what is named by id, that whose stamp is another now."""


def stamp_of(resume_token: str) -> str:
    """The stamp in a `resume_token`. InvalidRequest for what no message carried."""
    if len(resume_token) > _STAMP_LIMIT or not resume_token.isascii() or not resume_token.isprintable():
        raise InvalidRequest([FieldViolation("resume_token", "format", "must be the resume_token of a message seen")])
    return resume_token


class Watcher(Generic[Changed]):
    """One stream. `stamp`: what it has seen last."""

    def __init__(self, hub: Watchers[Changed], subject: str, stamp: str) -> None:
        self.subject = subject
        self.stamp = stamp
        self._hub = hub
        self._latest: Changed | None = None
        self._is_over = False
        self._error: GenerationError | None = None
        self._arrived = asyncio.Event()

    def offer(self, change: Changed) -> None:
        """Hand it the state; what it has not taken yet is older and forgotten."""
        if change.stamp != self.stamp:
            self._latest = change
            self._arrived.set()
        elif change.is_final:
            # It went on from the end, which it had seen before its stream broke.
            self._is_over = True
            self._arrived.set()

    def end(self, error: GenerationError) -> None:
        """Let the stream end with an error."""
        self._error = error
        self._arrived.set()

    def __enter__(self) -> Self:
        self._hub.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.remove(self)

    async def changes(self) -> AsyncIterator[Changed]:
        """Each change that was not seen, the last of which is the end. SERVICE_UNAVAILABLE where this replica stops."""
        while not self._is_over:
            await self._arrived.wait()
            self._arrived.clear()
            if self._error is not None:
                raise self._error
            change, self._latest = self._latest, None
            if change is None:
                continue
            self.stamp = change.stamp
            yield change
            if change.is_final:
                return


class Watchers(Generic[Changed]):
    """All streams of this process.

    Args:
        source: is asked once a tick, and not at all while nobody watches.
        interval_seconds: between two looks.
    """

    def __init__(self, source: Source[Changed], *, interval_seconds: float) -> None:
        self._source = source
        self._interval_seconds = interval_seconds
        self._watchers: defaultdict[str, set[Watcher[Changed]]] = defaultdict(set)
        self._known: dict[str, str] = {}
        self._somebody = asyncio.Event()
        self._last_look = float("-inf")
        self._end: GenerationError | None = None

    def watch(self, subject: str, *, stamp: str = _NOTHING_SEEN) -> Watcher[Changed]:
        """A stream of what changes after `stamp`; without one it begins with the present state. To be entered."""
        return Watcher(self, subject, stamp)

    def add(self, watcher: Watcher[Changed]) -> None:
        """Begin to look for it."""
        self._watchers[watcher.subject].add(watcher)
        # Others that watch the same have seen what this one may not have.
        self._known[watcher.subject] = _NOTHING_SEEN
        metrics.WATCHERS.inc()
        self._somebody.set()
        if self._end is not None:
            watcher.end(self._end)

    def remove(self, watcher: Watcher[Changed]) -> None:
        """Look for it no more."""
        others = self._watchers[watcher.subject]
        others.discard(watcher)
        if not others:
            del self._watchers[watcher.subject]
            self._known.pop(watcher.subject, None)
        metrics.WATCHERS.dec()

    async def close(self) -> None:
        """End all streams, and those that come later, for their readers to go on at another replica."""
        self._end = GenerationError(
            ErrorCode.SERVICE_UNAVAILABLE, "This gateway stops: watch again, from the last resume token."
        )
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.end(self._end)

    async def look(self) -> bool:
        """One tick. A turn of a loop, which waits here while nobody watches."""
        if not self._watchers:
            self._somebody.clear()
            try:
                await asyncio.wait_for(self._somebody.wait(), timeout=1.0)
            except TimeoutError:
                return False
        pause = self._last_look + self._interval_seconds - monotonic()
        if pause > 0:
            await asyncio.sleep(pause)
        self._last_look = monotonic()
        asked = dict(self._known)
        if not asked:
            return True
        try:
            found = await self._source.changes(asked)
        except GenerationError as error:
            log.warning("watchers wait for the database", error=error)
            return False
        for change in found:
            self._hand_out(change, asked[change.id])
        return True

    def _hand_out(self, change: Changed, asked: str) -> None:
        subject = change.id
        for watcher in self._watchers.get(subject, ()):
            watcher.offer(change)
        # Somebody who came while the question was under way is to be served by the next one.
        if self._known.get(subject) == asked and subject in self._watchers:
            self._known[subject] = change.stamp
