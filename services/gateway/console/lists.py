"""Where lists go on, and where they begin."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import web

from libs.common.rpc.pages import PAGE_LIMIT

PAGE = 50
assert PAGE <= PAGE_LIMIT


@dataclass(frozen=True, slots=True)
class Ends:
    """Links to the newest page and to the next older one; empty where this is it, and where there is none."""

    newest: str
    older: str


def ends_of(request: web.Request, before: str | None, name: str = "before") -> Ends:
    """The ends of a list that goes on at `before`; its other words stay as they are."""
    kept = [(key, value) for key, value in request.query.items() if key not in {name, "said", "once"}]
    newest = f"{request.path}?{urlencode(kept)}" if kept else request.path
    older = f"{request.path}?{urlencode([*kept, (name, before)])}" if before else ""
    return Ends(newest if request.query.get(name) else "", older)
