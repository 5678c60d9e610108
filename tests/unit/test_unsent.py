"""Answers that callers do not take: their connections are reset, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from libs.common.rpc.callers import Callers
from libs.common.rpc.unsent import Unsent


class _Context:
    """As much of a call's context as is needed."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._done: list[Any] = []

    def peer(self) -> str:
        """As gRPC names it."""
        return f"ipv4:{self._peer}"

    def add_done_callback(self, callback: Any) -> None:
        """As of a call."""
        self._done.append(callback)

    def end(self) -> None:
        """The answer is sent."""
        for callback in self._done:
            callback(self)


class _Counted:
    def __init__(self, **limits: Any) -> None:
        self.callers = Callers()
        self.unsent = Unsent(callers=self.callers, **limits)

    def answered(self, *peers: str, size_bytes: int = 0, is_keyless: bool = False) -> list[_Context]:
        """A call of each of them is answered."""
        contexts: list[Any] = [_Context(peer) for peer in peers]
        for context in contexts:
            self.unsent.answered(context, size_bytes, is_keyless=is_keyless)
        return contexts

    def dropped(self, peer: str, times: int) -> list[_Context]:
        """Streams of a peer are given up."""
        contexts: list[Any] = [_Context(peer) for _ in range(times)]
        for context in contexts:
            self.unsent.dropped(context)
        return contexts

    def reset(self) -> list[str]:
        """Whose connections are to be reset since the last question."""
        return sorted(f"{host}:{port}" for host, port in self.callers.to_reset())


@asynccontextmanager
async def _counted(**limits: Any) -> AsyncIterator[_Counted]:
    yield _Counted(**{"seconds": 0.2, "keyless": 3, **limits})


async def test_an_answer_that_is_not_taken_in_time_costs_the_connection() -> None:
    async with _counted() as counted:
        _, taken = counted.answered("192.0.2.1:1", "192.0.2.2:2")
        taken.end()
        await asyncio.sleep(1.2)
        assert counted.reset() == ["192.0.2.1:1"]
        await asyncio.sleep(1.2)
        assert counted.reset() == []


async def test_a_large_answer_may_take_longer() -> None:
    async with _counted() as counted:
        counted.answered("192.0.2.1:1", size_bytes=24 * 1024)
        await asyncio.sleep(1.2)
        assert counted.reset() == []
        await asyncio.sleep(1.2)
        assert counted.reset() == ["192.0.2.1:1"]


async def test_answers_that_are_taken_cost_nothing() -> None:
    async with _counted() as counted:
        for context in counted.answered(*("192.0.2.1:1",) * 5):
            context.end()
        await asyncio.sleep(1.2)
        assert counted.reset() == []


async def test_the_oldest_of_too_many_without_a_key_makes_room_at_once() -> None:
    async with _counted() as counted:
        counted.answered("192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3", is_keyless=True)
        assert counted.reset() == []
        counted.answered("192.0.2.4:4", is_keyless=True)
        assert counted.reset() == ["192.0.2.1:1"]
        # Calls with a key have shares of their own.
        counted.answered(*("192.0.2.5:5",) * 5)
        assert counted.reset() == []


@pytest.mark.parametrize(("streams", "reset"), [(20, []), (21, ["192.0.2.1:1"])])
async def test_a_few_streams_may_be_forgotten(streams: int, reset: list[str]) -> None:
    async with _counted() as counted:
        counted.dropped("192.0.2.1:1", streams)
        assert counted.reset() == reset


async def test_streams_that_have_ended_do_not_count() -> None:
    async with _counted() as counted:
        for _ in range(3):
            for context in counted.dropped("192.0.2.1:1", 15):
                context.end()
        assert counted.reset() == []


async def test_many_streams_of_many_peers_are_too_many() -> None:
    async with _counted() as counted:
        for port in range(1, 26):
            counted.dropped(f"192.0.2.1:{port}", 20)
        assert counted.reset() == []
        counted.dropped("192.0.2.2:1", 1)
        assert counted.reset() == ["192.0.2.2:1"]
