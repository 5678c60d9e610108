"""Wakeups: what comes while a call is under way goes with the next one, and a lost one harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from libs.common.rpc.wakeups import Wakeups
from tests.support.waiting import eventually


class _Peer:
    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.is_away = False

    async def take(self, ids: Sequence[str]) -> None:
        self.told.append(list(ids))
        await self.may_answer.wait()
        if self.is_away:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


async def test_what_comes_while_a_call_is_under_way_goes_with_the_next() -> None:
    peer = _Peer()
    wakeups = Wakeups(peer.take, between_seconds=0)
    wakeups.note("a")

    async def has_begun() -> bool:
        return bool(peer.told)

    await eventually(has_begun, within=5, what="the first call is under way")
    for key in ("b", "c", "b"):
        wakeups.note(key)
    peer.may_answer.set()
    await wakeups.close()
    assert peer.told == [["a"], ["b", "c"]]


async def test_a_peer_that_is_away_is_told_of_the_next_change() -> None:
    peer = _Peer()
    peer.may_answer.set()
    wakeups = Wakeups(peer.take, between_seconds=0)
    peer.is_away = True
    wakeups.note("lost")
    await wakeups.close()
    peer.is_away = False
    wakeups.note("a")
    await wakeups.close()
    assert peer.told == [["lost"], ["a"]]
