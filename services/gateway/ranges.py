"""Conditions and ranges of a request for a file (RFC 9110, sections 13 and 14): one range at a time, in bytes."""

from __future__ import annotations

import re
from typing import NamedTuple

from aiohttp import hdrs, web

_UNIT, _SINGLE = "bytes", re.compile(r"\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})\s*")


class Range(NamedTuple):
    """The first and the last byte of a part, both included, counted from 0."""

    begin: int
    end: int


def is_not_modified(request: web.Request, etag: str) -> bool:
    """Whether the caller has the file with this ETag (If-None-Match)."""
    known = request.if_none_match
    return known is not None and any(one.value in {etag, "*"} for one in known)


def check_match(request: web.Request, etag: str) -> None:
    """Raise aiohttp's 412 if the caller wants another file than the one with this ETag (If-Match)."""
    wanted = request.if_match
    if wanted is not None and not any(one.value == "*" or (one.value == etag and not one.is_weak) for one in wanted):
        raise web.HTTPPreconditionFailed(text="The file is another one than If-Match names.")


def range_of(request: web.Request, size_bytes: int, etag: str) -> Range | None:
    """The part of a file that a request asks for; None: the whole.

    The whole also answers several ranges, other units, what is no range, and If-Range with anything but this ETag, as
    RFC 9110 allows or demands. Raises aiohttp's 416 for a range that begins behind the end.
    """
    given = ",".join(request.headers.getall(hdrs.RANGE, []))
    unit, _, text = given.partition("=")
    found = _SINGLE.fullmatch(text)
    condition = request.headers.get(hdrs.IF_RANGE)
    if request.method != hdrs.METH_GET or unit.strip().lower() != _UNIT or found is None:
        return None
    if condition is not None and condition.strip() != f'"{etag}"':
        return None
    first, last = found.groups()
    if not (first or last) or (first and last and int(last) < int(first)):
        return None
    begin = int(first) if first else max(0, size_bytes - int(last))
    if begin >= size_bytes:
        raise web.HTTPRequestRangeNotSatisfiable(
            text=f"The range begins behind the end: the file has {size_bytes} bytes.",
            headers={hdrs.CONTENT_RANGE: f"bytes */{size_bytes}"},
        )
    return Range(begin, min(int(last), size_bytes - 1) if first and last else size_bytes - 1)
