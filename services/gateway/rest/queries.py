"""Queries of routes that are no RPC's: each parameter is known, and given once."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web

from libs.common.errors import VIOLATIONS_LIMIT, FieldViolation, InvalidRequest


def check_query(request: web.Request, known: Collection[str] = ()) -> None:
    """Raise InvalidRequest for parameters that are not among the known ones, or are given twice."""
    found: dict[str, FieldViolation] = {}
    for name in request.query:
        field = name[:200]
        if name not in known:
            found[field] = FieldViolation(field, "unknown", "unknown")
        elif len(request.query.getall(name)) > 1:
            found[field] = FieldViolation(field, "twice", "given twice")
        if len(found) == VIOLATIONS_LIMIT:
            break
    if found:
        raise InvalidRequest(list(found.values()))
