"""The error log: each fault once, however often it was seen."""

from __future__ import annotations

import asyncio

from darkroom.common.v1 import common_pb2
from darkroom.monitor.v1 import monitor_pb2

from libs.common.errors import NotFound
from services.gateway.console.lists import PAGE, ends_of
from services.gateway.console.visit import Gone, Page, Visit

_LEVELS = ("WARN", "ERROR", "CRITICAL")
_LOGS = 50


async def show(visit: Visit) -> Page:
    """The groups, the most recently seen first."""
    level, code = visit.asked("level"), visit.asked("code")
    codes = [name.removeprefix("ERROR_CODE_") for name in common_pb2.ErrorCode.keys()[1:]]
    request = monitor_pb2.ListErrorsRequest(
        page_size=PAGE,
        page_token=visit.before or "",
        level=monitor_pb2.ErrorLevel.Value(f"ERROR_LEVEL_{level if level in _LEVELS else 'UNSPECIFIED'}"),
        code=common_pb2.ErrorCode.Value(f"ERROR_CODE_{code if code in codes else 'UNSPECIFIED'}"),
        source=visit.asked("source"),
        text=visit.asked("text"),
        include_resolved=bool(visit.asked("resolved")),
    )
    found = await visit.peer(visit.parts.monitor.ListErrors, request)
    values = {
        "groups": found.errors,
        "given": {name: visit.asked(name) for name in ("level", "code", "source", "text", "resolved")},
        "levels": _LEVELS,
        "codes": codes,
        "ends": ends_of(visit.request, found.next_page_token or None),
    }
    return Page("errors.html", values)


async def show_one(visit: Visit) -> Page:
    """One group, with the errors that are kept of it."""
    group_id = visit.named("id")
    groups, logs = await asyncio.gather(
        visit.peer(visit.parts.monitor.ListErrors, monitor_pb2.ListErrorsRequest(id=group_id)),
        visit.peer(
            visit.parts.monitor.ListErrorLogs,
            monitor_pb2.ListErrorLogsRequest(group_id=group_id, page_size=_LOGS, page_token=visit.before or ""),
        ),
    )
    if not groups.errors:
        raise NotFound("id", f"There is no error group {group_id[:100]!r}.")
    values = {
        "group": groups.errors[0],
        "logs": logs.errors,
        "ends": ends_of(visit.request, logs.next_page_token or None),
    }
    return Page("error.html", values)


async def resolve(visit: Visit) -> Gone:
    """Mark a group as mended."""
    group_id = visit.named("id")
    request = monitor_pb2.ResolveErrorRequest(id=group_id, note=visit.fields.text("note"))
    await visit.peer(visit.parts.monitor.ResolveError, request)
    return Gone(f"/admin/monitoring/errors/{group_id}", "error_resolved")
