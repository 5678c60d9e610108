"""Reads forms, within bounds that aiohttp does not have."""

from __future__ import annotations

import warnings

from aiohttp import hdrs, web
from aiohttp.helpers import parse_mimetype
from multidict import MultiDictProxy

from services.gateway.holding import hold_bytes

_NOT_PACKED = frozenset({"", "identity"})
_MULTIPART = "multipart/form-data"
_BOUNDARY_LIMIT = 70
# A blank line may come first; browsers and libraries write nothing.
_BLANK = b"\r\n"


async def posted(
    request: web.Request, *, limit_bytes: int | None = None
) -> MultiDictProxy[str | bytearray | bytes | web.FileField]:
    """Read the form that a request brings.

    A multipart form must begin with its boundary: aiohttp looks for the first one line by line, and a body of millions
    of lines would keep the event loop. What RFC 2046, 5.1.1, calls a preamble is refused.

    Args:
        request: whose body has not been read.
        limit_bytes: the most that the form may have. None: what a body may have.

    Raises ValueError, LookupError and RuntimeError for what is no form, what aiohttp raises while it reads a body, and
    as `hold_bytes`; and aiohttp's 415 for a form with a content-encoding.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in _NOT_PACKED:
        # No client compresses forms, and a small one could become as large as the limit.
        raise web.HTTPUnsupportedMediaType(text="A form must not have a content-encoding.")
    if limit_bytes is not None:
        request = request.clone(client_max_size=limit_bytes)
    size_bytes = request.content_length
    most = request.client_max_size
    hold_bytes(request, min(size_bytes, most) if size_bytes is not None else most)
    if request.content_type == _MULTIPART:
        await _check_beginning(request)
    return await request.post()


async def _check_beginning(request: web.Request) -> None:
    boundary = parse_mimetype(request.headers.get("content-type", "")).parameters["boundary"]
    if len(boundary) > _BOUNDARY_LIMIT:
        raise ValueError("the boundary is too long")
    wanted = b"--" + boundary.encode()
    read = b""
    while len(read) < len(_BLANK) + len(wanted) and (chunk := await request.content.readany()):
        read += chunk
    with warnings.catch_warnings():
        # The only way to look at the beginning of a body.
        warnings.simplefilter("ignore", DeprecationWarning)
        request.content.unread_data(read)
    if not read.removeprefix(_BLANK).startswith(wanted):
        raise ValueError("a form must begin with its boundary")
