"""Writers that coalesce: items that many callers write at about the same time share one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Generic, TypeVar

from libs.common import metrics
from libs.common.errors import DATABASE_FAILURES, GenerationError, StatementEnded

Item = TypeVar("Item")
Answer = TypeVar("Answer")
_LOOK_SECONDS = 0.01
_PARTS = 8
"""Parts into which a group that failed is split.

Halves would take nine rounds to find one bad item of 500, this takes three; where a round means waiting for a
statement timeout of 30 s, that is what the neighbours of the bad item wait for.
"""
_SLOW_FAILURES = 10
"""Slow failures of the parts of one group after which the rest is not tried: the database itself is slow then."""
Group = list[tuple[Item, "asyncio.Future[Answer]"]]


class Closed(RuntimeError):
    """The writer takes nothing any more: the service is stopping."""


class GroupWriter(Generic[Item, Answer]):
    """Passes items to `flush` in groups, and to each caller the answer to its own item.

    While a group is being flushed the next one gathers, so groups grow with the load; a lone item waits for nothing
    but `linger_seconds`, and not even for that where no other is expected. At most `concurrency` groups are flushed at
    once.

    A group that fails is split, and its parts again, until each bad item is alone with its own error and all others
    are written. That happens beside the groups that follow, which do not wait for it. It does not happen where no item
    can be the reason: the database cannot be reached, or the outcome of the commit is unknown.

    Args:
        name: for metrics.
        flush: writes a group; answers in the same order and number, or raises for all of the group.
        limit: items of a group at most.
        linger_seconds: how long the first item of a group waits for company at most.
        busy_linger_seconds: the same while another group is being flushed, which has the connections busy anyway.
        expected: how many items are under way, those handed in included: a group waits for no more than these. Without
            it each group waits for `linger_seconds`.
        concurrency: groups under way at once.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        limit: int = 500,
        linger_seconds: float = 0.0,
        busy_linger_seconds: float = 0.0,
        expected: Callable[[], int] | None = None,
        concurrency: int = 1,
    ) -> None:
        self._name = name
        self._flush = flush
        self._limit = limit
        self._linger_seconds = linger_seconds
        self._busy_linger_seconds = busy_linger_seconds
        self._expected = expected
        self._places = asyncio.Semaphore(concurrency)
        self._splitting = asyncio.Semaphore(concurrency)
        self._waiting: Group[Item, Answer] = []
        self._arrived = asyncio.Event()
        self._closed = False
        self._groups: set[asyncio.Task[None]] = set()
        self._runner = asyncio.create_task(self._run(), name=f"writer:{name}")

    async def write(self, item: Item) -> Answer:
        """Write one item. Answers once its group is committed; raises what `flush` raised, or Closed.

        A caller that is cancelled stops waiting; its item is written all the same.
        """
        if self._closed:
            raise Closed(self._name)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return await future

    async def close(self) -> None:
        """Take nothing more, and answer once all that was handed in is written."""
        self._closed = True
        self._arrived.set()
        await self._runner
        while self._groups:
            await asyncio.gather(*self._groups)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await self._wait_for_company()
            await self._places.acquire()
            group, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            if not self._waiting and not self._closed:
                self._arrived.clear()
            if group:
                task = asyncio.create_task(self._write_group(group))
                self._groups.add(task)
                task.add_done_callback(self._groups.discard)
            else:
                self._places.release()
                if self._closed:
                    return

    async def _wait_for_company(self) -> None:
        until = monotonic() + (self._busy_linger_seconds if self._groups else self._linger_seconds)
        while not self._closed and len(self._waiting) < self._limit:
            left = until - monotonic()
            if left <= 0 or (self._expected is not None and self._expected() <= len(self._waiting)):
                return
            await asyncio.sleep(min(left, _LOOK_SECONDS))

    async def _write_group(self, group: Group[Item, Answer]) -> None:
        metrics.WRITER_GROUP_SIZE.labels(self._name).observe(len(group))
        try:
            failure = await self._flushed(group)
        finally:
            self._places.release()
        if failure is not None:
            async with self._splitting:
                await self._split(group, failure)

    async def _split(self, group: Group[Item, Answer], failure: Exception) -> None:
        """Write the items of a group that failed in ever smaller parts, the largest first."""
        waiting, slow_failures = deque(_parts(group)), int(_is_slow(failure))
        while waiting:
            part = waiting.popleft()
            if slow_failures >= _SLOW_FAILURES:
                _fail(part, failure)
                continue
            error = await self._flushed(part)
            if error is not None:
                failure = error
                slow_failures += _is_slow(error)
                waiting.extend(_parts(part))

    async def _flushed(self, group: Group[Item, Answer]) -> Exception | None:
        """Flush a group, and pass on its answers or its error. Answers the error where the group must be split."""
        try:
            answers = await self._flush([item for item, _ in group])
        except Exception as error:
            if len(group) > 1 and _may_be_an_items(error):
                return error
            _fail(group, error)
        else:
            for (_, future), answer in zip(group, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        return None


def _parts(group: Group[Item, Answer]) -> list[Group[Item, Answer]]:
    size = -(-len(group) // _PARTS)
    return [group[start : start + size] for start in range(0, len(group), size)]


def _fail(group: Group[Item, Answer], error: Exception) -> None:
    for _, future in group:
        if not future.done():
            future.set_exception(error)


def _may_be_an_items(error: Exception) -> bool:
    is_databases_own = isinstance(error, GenerationError) and error.code in DATABASE_FAILURES
    return isinstance(error, StatementEnded) or not is_databases_own


def _is_slow(error: Exception) -> bool:
    return isinstance(error, StatementEnded) and error.is_slow
