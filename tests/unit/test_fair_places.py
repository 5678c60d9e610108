"""Owners take places in fair turns."""

from __future__ import annotations

import asyncio

from libs.common.imaging.places import FairPlaces


class _Work:
    """Work that holds places until it is released, and records the owners that began."""

    def __init__(self, places: FairPlaces) -> None:
        self._places = places
        self.began: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.ends: list[asyncio.Event] = []

    async def ask(self, *owners: str) -> None:
        for owner in owners:
            self.tasks.append(asyncio.create_task(self._hold(owner)))
        await self.settle()

    async def _hold(self, owner: str) -> None:
        async with self._places.place(owner):
            self.began.append(owner)
            end = asyncio.Event()
            self.ends.append(end)
            await end.wait()

    async def end_first(self) -> None:
        self.ends.pop(0).set()
        await self.settle()

    @staticmethod
    async def settle() -> None:
        for _ in range(10):
            await asyncio.sleep(0)


async def test_an_owner_that_comes_late_is_next_however_many_wait() -> None:
    work = _Work(FairPlaces(2))
    await work.ask(*["a"] * 100)
    await work.ask("b")
    await work.end_first()
    assert work.began == ["a", "a", "b"]
    await work.ask("b", "b", "c")
    await work.end_first()
    assert work.began[3:] == ["c"], "who holds fewest is next"


async def test_owners_that_hold_as_many_go_round() -> None:
    work = _Work(FairPlaces(1))
    await work.ask("a", "a", "a", "b", "b", "c")
    for _ in range(5):
        await work.end_first()
    assert work.began == ["a", "b", "c", "a", "b", "a"]


async def test_one_owner_alone_has_all_places_unless_there_is_a_share() -> None:
    alone, shared = _Work(FairPlaces(4)), _Work(FairPlaces(4, share=2))
    for work in (alone, shared):
        await work.ask(*["a"] * 6)
    assert (len(alone.began), len(shared.began)) == (4, 2)
    await shared.ask("b", "b", "b")
    assert shared.began == ["a", "a", "b", "b"]


async def test_who_gives_up_leaves_the_place_to_others() -> None:
    work = _Work(FairPlaces(1))
    await work.ask("a", "b", "b", "c")
    for task in work.tasks[1:3]:
        task.cancel()
    await work.settle()
    await work.end_first()
    assert work.began == ["a", "c"]
    work.tasks[3].cancel()
    await work.settle()
    await work.ask("d")
    assert work.began == ["a", "c", "d"]


async def test_a_place_that_was_granted_to_one_who_just_gave_up_is_not_lost() -> None:
    work = _Work(FairPlaces(1))
    await work.ask("a", "b")
    work.ends.pop(0).set()
    await asyncio.sleep(0)
    work.tasks[1].cancel()
    await work.settle()
    await work.ask("c")
    assert work.began[-1] == "c"
