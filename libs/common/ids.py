"""Ids: a prefix that says what it is, and a ULID that sorts by the time it was made (https://github.com/ulid/spec)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ulid import ULID

Prefix = Literal[
    "gen", "batch", "exp", "var", "alert", "err", "log", "sil", "dlv", "ntf", "sub", "key", "req", "img", "aud"
]


def first_id(prefix: Prefix, at: datetime) -> str:
    """What all ids of that time and later sort after."""
    return f"{prefix}_{str(ULID.from_datetime(at))[:10].lower()}"


def made_at(made: str) -> datetime:
    """When that id was made, in UTC to the millisecond. Raises ValueError where it holds no ULID."""
    return ULID.from_str(made.rpartition("_")[2].upper()).datetime


def new_id(prefix: Prefix) -> str:
    """A new id such as `gen_01jdq2v8x4...`: the prefix, an underscore and 26 lower-case characters."""
    return f"{prefix}_{str(ULID()).lower()}"
