"""What a provider repeats of a request in an error: words of the caller, which say nothing of what went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TEXTS_LIMIT, _TEXT_LIMIT = 50, 10_000


def texts_of(request: Mapping[str, Any] | None) -> list[str]:
    """The texts in a request's JSON or form that an error may repeat; at most 50, the beginnings of long ones."""
    texts: list[str] = []
    waiting: list[Any] = [dict(request or {})]
    while waiting and len(texts) < _TEXTS_LIMIT:
        value = waiting.pop(0)
        if isinstance(value, str):
            texts.append(value[:_TEXT_LIMIT])
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value[:_TEXTS_LIMIT]
    return texts
