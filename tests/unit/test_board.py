"""The board of components: an answer in time, whatever hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from libs.common.errors import ErrorCode, GenerationError
from services.monitor.board import Board, Check, Finding


class Looks(Check):
    """A check that does as it is told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    def names(self) -> Sequence[str]:
        return [self.name]

    async def look(self) -> Mapping[str, Finding]:
        self.asked += 1
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return {self.name: Finding("up")}


def _status(board: Board) -> dict[str, str]:
    return {component.name: component.status for component in board.components}


async def test_one_that_hangs_is_down_in_time_and_keeps_no_other_waiting() -> None:
    database, storage = Looks("database"), Looks("s3")
    storage.gate.clear()
    board = Board([database, storage], look_seconds=0.05)
    async with asyncio.timeout(2):
        await board.look()
        await board.look()
    assert _status(board) == {"database": "up", "s3": "down"}
    assert (board.whole, storage.asked) == ("degraded", 1), "it is not asked again while it hangs"
    first = board.down()["s3"][0]
    storage.gate.set()
    await board.look()
    assert (_status(board)["s3"], board.whole) == ("up", "healthy")
    assert first >= 0
    assert board.down() == {}


async def test_without_the_database_all_is_unhealthy() -> None:
    database = Looks("database")
    database.fails = GenerationError(ErrorCode.SERVICE_UNAVAILABLE, "The database cannot be reached.")
    board = Board([database])
    await board.look()
    assert board.whole == "unhealthy"
    (component,) = board.components
    assert component.message == "The database cannot be reached."


async def test_a_check_with_a_fault_of_its_own_is_down_and_breaks_nothing() -> None:
    broken = Looks("s3")
    broken.fails = ZeroDivisionError()
    board = Board([broken, Looks("database")])
    await board.look()
    assert _status(board) == {"database": "up", "s3": "down"}


async def test_who_asks_at_once_shares_a_look() -> None:
    database = Looks("database")
    board = Board([database])
    await asyncio.gather(*(board.fresh(60) for _ in range(20)))
    assert database.asked == 1
