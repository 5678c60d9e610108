"""Details of errors, bounded: they travel in headers, rows, callbacks and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TEXT_LIMIT = 1_000
_ITEMS, _DEPTH = 100, 4
CUT = "is_cut"


def bounded(details: Mapping[str, Any], limit_bytes: int) -> dict[str, Any]:
    """Return as many of the details as fit.

    Args:
        details: JSON values by name.
        limit_bytes: of the result as JSON in UTF-8.

    Texts end after 1,000 characters, lists and objects after 100 items, nesting after four levels. A name whose value
    has no room is left out, and `is_cut` is true where any was.
    """
    kept: dict[str, Any] = {}
    room = limit_bytes - len(json.dumps({CUT: True}))
    is_cut = False
    for name, value in details.items():
        fitting = _fitting(name, value, room)
        if fitting is None:
            is_cut = True
            continue
        kept[name], size = fitting
        room -= size
    return {**kept, CUT: True} if is_cut else kept


def _fitting(name: str, value: Any, room: int) -> tuple[Any, int] | None:
    """The value as far as there is room for it, and the bytes that it takes; None where there is none."""
    for items, characters in ((_ITEMS, TEXT_LIMIT), (20, 200), (5, 50)):
        short = _short(value, items, characters, _DEPTH)
        size = len(json.dumps({name: short}, ensure_ascii=False, default=str).encode(errors="replace"))
        if size <= room:
            return short, size
    return None


def _short(value: Any, items: int, characters: int, depth: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= characters else value[: characters - 1] + "…"
    if isinstance(value, Mapping):
        pairs = list(value.items())[:items] if depth else []
        return {str(key)[:characters]: _short(inner, items, characters, depth - 1) for key, inner in pairs}
    if isinstance(value, list | tuple):
        return [_short(inner, items, characters, depth - 1) for inner in value[:items]] if depth else []
    return value
