"""The audit log: who pressed what."""

from __future__ import annotations

from services.gateway.console.lists import PAGE, ends_of
from services.gateway.console.visit import Page, Visit


async def show(visit: Visit) -> Page:
    """The page."""
    found = await visit.parts.audit.list_page(PAGE + 1, before=visit.before)
    before = found[PAGE - 1].id if len(found) > PAGE else None
    return Page("audit.html", {"records": found[:PAGE], "ends": ends_of(visit.request, before)})
