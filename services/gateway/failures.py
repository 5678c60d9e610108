"""Requests whose body cannot be read, and the error that answers them."""

from __future__ import annotations

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from libs.common.errors import FieldViolation, InvalidRequest

PACKINGS = frozenset({"", "identity", "gzip", "deflate", "x-gzip"})
"""The content encodings that a request may have."""

BROKEN_BODY = (web.RequestPayloadError, HttpProcessingError)
"""What aiohttp raises from a body that ends early or does not unpack; which of them depends on how far it was read."""


BROKEN_FORM = (ValueError, LookupError, RuntimeError)
"""What aiohttp raises from a form that is none; RuntimeError: of a content-transfer-encoding that it does not know."""


# JSON of real requests shrinks to a fiftieth at most, gzip can shrink to a thousandth. Source of the attack:
# https://cwe.mitre.org/data/definitions/409.html.
_MOST_RATIO = 100
_RATIO_ABOVE_BYTES = 1024**2


def check_ratio(request: web.Request, unpacked_bytes: int) -> None:
    """Raise InvalidRequest if the body so far has unpacked to more than a MiB and a hundred times what was received."""
    if unpacked_bytes > _RATIO_ABOVE_BYTES and unpacked_bytes > _MOST_RATIO * request.content.total_raw_bytes:
        fault = f"unpacks to more than {_MOST_RATIO} times its size: send it without a content-encoding"
        raise InvalidRequest([FieldViolation("body", "encoding", fault)])


def broken_body() -> InvalidRequest:
    """The error for a body whose reading raised one of BROKEN_BODY."""
    fault = "cannot be read: it ends early, or does not unpack by its content-encoding"
    return InvalidRequest([FieldViolation("body", "encoding", fault)])
