"""Generations: found by what is known of them, as a table or as pictures."""

from __future__ import annotations

from datetime import datetime

from libs.common.database.states import State
from libs.common.database.stores.generations import GenerationFilter
from libs.common.ids import first_id
from services.gateway.console.fields import Fields
from services.gateway.console.lists import ends_of
from services.gateway.console.visit import Gone, Page, Visit

_PAGE, _PICTURES = 50, 24
# What clients see as one word may be several states.
STATUSES: dict[str, tuple[State, ...]] = {
    "PENDING": (State.HELD, State.PENDING, State.DISPATCHING),
    "PROCESSING": (State.PROCESSING, State.STORING),
    "SUCCESS": (State.SUCCESS,),
    "FAILED": (State.FAILED,),
    "CANCELLED": (State.CANCELLED,),
}
_WORDS = ("model", "owner", "key", "batch", "experiment", "label", "request", "status", "from", "until")


async def show(visit: Visit) -> Page | Gone:
    """The page; or the generation itself, where what is searched for is its id."""
    search = visit.asked("search")
    if search.startswith("gen_") and await visit.parts.generations.get(search) is not None:
        return Gone(f"/admin/generations/{search}")
    given = {name: visit.asked(name) for name in _WORDS}
    if search:
        given["request"] = search
    is_gallery = visit.asked("view") == "gallery"
    size = _PICTURES if is_gallery else _PAGE
    since, until = (_time(visit, name) for name in ("from", "until"))
    found = await visit.parts.reads.generations(
        size,
        _filter(given),
        before=visit.before or (first_id("gen", until) if until else None),
        after=first_id("gen", since) if since else None,
    )
    values = {
        "found": found,
        "given": given,
        "search": search,
        "is_gallery": is_gallery,
        "statuses": STATUSES,
        "models": sorted(visit.parts.catalog.current.models),
        "ends": ends_of(visit.request, found.before),
    }
    return Page("generations.html", values)


def _filter(given: dict[str, str]) -> GenerationFilter:
    label, _, value = given["label"].partition("=")
    return GenerationFilter(
        owner=given["owner"] or None,
        states=STATUSES.get(given["status"], ()),
        model_identifier=given["model"] or None,
        api_key_id=given["key"] or None,
        batch_id=given["batch"] or None,
        experiment_id=given["experiment"] or None,
        request_id=given["request"] or None,
        labels={label: value} if label else {},
    )


def _time(visit: Visit, name: str) -> datetime | None:
    return Fields.of({name: visit.asked(name)}).time(name)
