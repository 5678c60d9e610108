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


def broken_body() -> InvalidRequest:
    """The error for a body whose reading raised one of BROKEN_BODY."""
    fault = "cannot be read: it ends early, or does not unpack by its content-encoding"
    return InvalidRequest([FieldViolation("body", "encoding", fault)])
