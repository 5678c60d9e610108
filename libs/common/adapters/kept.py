"""Prepares replies for rows: bounded, without credentials, and without base64 payloads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from libs.common.adapters.reading import storable
from libs.common.errors import UNREAD_REPLY_LIMIT
from libs.common.logging import REDACTED

Clean = Callable[[str], str]
_DEPTH = 16
_NODES = 1_000
_TEXT_LIMIT = 4_000
_KEY_LIMIT = 200
_BASE64_LIMIT = 512
_SCAN_LIMIT = 100_000
# Possessive quantifiers: a text that is almost base64 must not cause backtracking.
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{48,}+={0,2}+(?:\\[rn]|\s)*+)+")
_SECRET_KEY = re.compile(r"authorization|api_?key$|x-key|secret|password|token$|credential|cookie", re.IGNORECASE)
_SECRET_MEMBER = re.compile(
    r"""("[^"]{0,60}(?:authorization|api_?key|x-key|secret|password|token|credential|cookie)"\s*:\s*")[^"]*""",
    re.IGNORECASE,
)
_MORE = "…"


def plain(value: Any, clean: Clean = storable) -> Any:
    """A vendor's JSON value for a row: bounded in depth, nodes and texts, without credentials and base64.

    Args:
        value: what `json.loads` gives.
        clean: cuts credentials out of a text.
    """
    budget = [_NODES]

    def walk(inner: Any, depth: int) -> Any:
        budget[0] -= 1
        if budget[0] < 0 or depth > _DEPTH:
            return _MORE
        if isinstance(inner, dict):
            return {
                clean(str(key)[:_KEY_LIMIT]): REDACTED
                if isinstance(member, str) and _SECRET_KEY.search(str(key))
                else walk(member, depth + 1)
                for key, member in _bounded(inner.items(), budget)
            }
        if isinstance(inner, list):
            return [walk(member, depth + 1) for member in _bounded(inner, budget)]
        if isinstance(inner, str):
            return clean(_cut(_without_base64(inner[:_SCAN_LIMIT]), _TEXT_LIMIT) + _rest(inner))
        if isinstance(inner, float) and not -1e300 < inner < 1e300:
            # JSON in a row knows neither NaN nor infinity.
            return str(inner)
        return inner

    return walk(value, 0)


def kept_text(body: Any, head: str, clean: Clean) -> str:
    """What is kept of a reply's body, at most `UNREAD_REPLY_LIMIT` characters.

    Args:
        body: the JSON in it; None where it is not JSON.
        head: its beginning, for a body that is not JSON.
        clean: cuts credentials out of a text.
    """
    if body is None:
        text = _SECRET_MEMBER.sub(rf"\g<1>{REDACTED}", _without_base64(head))
    else:
        text = json.dumps(plain(body, clean), ensure_ascii=False)
    return _cut(storable(clean(text)), UNREAD_REPLY_LIMIT)


def _bounded(members: Any, budget: list[int]) -> Any:
    """The members that fit into the budget. The rest of a long list is not visited."""
    for member in members:
        if budget[0] <= 0:
            return
        yield member


def _rest(text: str) -> str:
    return f" ({len(text)} characters in all)" if len(text) > _SCAN_LIMIT else ""


def _without_base64(text: str) -> str:
    return _BASE64.sub(_elided, text)


def _elided(found: re.Match[str]) -> str:
    size = len(found[0])
    return found[0] if size < _BASE64_LIMIT else f"[{size} characters of base64]"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + _MORE
