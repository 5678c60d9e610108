"""Pages of lists: how many, and from where on. The same for every list."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from libs.common.errors import FieldViolation, InvalidRequest

PAGE_DEFAULT, PAGE_LIMIT = 50, 1_000
_TOKEN = re.compile(r"[a-z]+_[0-9a-z_]{1,40}")


class HasId(Protocol):
    """What pages go by."""

    @property
    def id(self) -> str:
        """Sorts by the time it was made."""


class ListRequest(Protocol):
    """A message that asks for a page."""

    @property
    def page_size(self) -> int:
        """How many at most."""

    @property
    def page_token(self) -> str:
        """Where to go on."""


Record = TypeVar("Record", bound=HasId)
Made = TypeVar("Made")
_TURN = 50


def page_size(request: ListRequest) -> int:
    """How many are asked for; 0 is as if nothing was said (AIP-158). InvalidRequest for a number out of bounds."""
    size = request.page_size or PAGE_DEFAULT
    if not 1 <= size <= PAGE_LIMIT:
        raise InvalidRequest([FieldViolation("page_size", "range", f"must be from 0 to {PAGE_LIMIT}")])
    return size


def page_start(request: ListRequest) -> str | None:
    """The id that the page before ended with; None for the first page. InvalidRequest for what no page gave."""
    if not request.page_token:
        return None
    if not _TOKEN.fullmatch(request.page_token):
        raise InvalidRequest([FieldViolation("page_token", "format", "must be the next_page_token of a page before")])
    return request.page_token


async def in_turns(records: Sequence[Record], make: Callable[[Record], Made]) -> list[Made]:
    """What `make` makes of each record of a page. Other calls have their turn after each fifty."""
    made: list[Made] = []
    for start in range(0, len(records), _TURN):
        if start:
            await asyncio.sleep(0)
        made += map(make, records[start : start + _TURN])
    return made


def page(found: Sequence[Record], size: int) -> tuple[Sequence[Record], str]:
    """Of `size` + 1 records that were looked for, those of the page, and the token of the next one."""
    return found[:size], found[size - 1].id if len(found) > size else ""
