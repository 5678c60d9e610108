"""Faults in requests, and ids as Postgres takes them: the same for all handlers."""

from __future__ import annotations

from collections.abc import Sequence

from libs.common.errors import FieldViolation, InvalidRequest


def raise_for(found: Sequence[FieldViolation]) -> None:
    """InvalidRequest with all of `found`, where there are any."""
    if found:
        raise InvalidRequest(found)


def known(key: str) -> str:
    """An id as Postgres takes it; one with a NUL in it is nobody's."""
    return key.replace("\x00", "\N{REPLACEMENT CHARACTER}")
