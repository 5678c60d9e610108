"""What handlers read requests with: faults, ids as Postgres takes them, points in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.errors import FieldViolation, InvalidRequest


def raise_for(found: Sequence[FieldViolation]) -> None:
    """InvalidRequest with all of `found`, where there are any."""
    if found:
        raise InvalidRequest(found)


ID_LIMIT = 200
"""Characters of an id, or of a provider's name, in a request."""


def known(key: str) -> str:
    """An id as Postgres takes it; one with a NUL in it is nobody's."""
    return key.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def text_faults(texts: Mapping[str, str], limits: Mapping[str, int], *, prefix: str = "") -> list[FieldViolation]:
    """A violation for each text that is longer than its limit, in characters, or that Postgres cannot keep."""
    return [
        FieldViolation(f"{prefix}{name}", "length", f"must have at most {limit} characters, none of them NUL")
        for name, limit in limits.items()
        if len(texts[name]) > limit or "\x00" in texts[name]
    ]


def time_of(given: Timestamp, name: str, found: list[FieldViolation]) -> datetime | None:
    """A point in time; a violation for one that no calendar has."""
    try:
        return given.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        found.append(FieldViolation(name, "time", "must be a point in time from the year 1 to 9999"))
        return None
