"""JSON from outside: its values and its depth are counted before any object is built."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

VALUES_LIMIT = 20_000
DEPTH_LIMIT = 32
# What values have beside their strings, digits above all: enough for 20,000 numbers of 64 characters.
_OUTSIDE_STRINGS_BYTES = 64 * VALUES_LIMIT
_BLANKS = b" \t\r\n"
_BRACKETS = b"[]{}"
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


def loads(text: bytes) -> Any:
    """Parse a JSON text of an untrusted sender.

    Args:
        text: UTF-8 (RFC 8259, section 8.1), with or without a byte order mark.

    Returns the value. Raises ValueError with a short reason for what is no JSON, has more than 20,000 values, is nested
    deeper than 32, names a key twice in one object, or has a word that JSON lacks (NaN, Infinity).
    """
    check_bounds(text)
    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH_LIMIT} deep") from error


def check_bounds(text: bytes) -> None:
    """Count the values and the depth of a JSON text, in time linear in its length and without parsing it.

    Raises ValueError for more than 20,000 values, a depth of more than 32, or numbers of too many digits.
    """
    # Without escapes each quotation mark begins or ends a string.
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    if plain.count(b'"') > 4 * VALUES_LIMIT:
        raise ValueError(f"it has more than {VALUES_LIMIT:,} values")
    outside = b"".join(plain.split(b'"')[::2])
    brackets = outside.translate(None, _ALL_BUT_BRACKETS)
    if outside.count(b",") + outside.count(b"[") + outside.count(b"{") >= VALUES_LIMIT:
        raise ValueError(f"it has more than {VALUES_LIMIT:,} values")
    if len(brackets) > 2 * VALUES_LIMIT or _depth(brackets) > DEPTH_LIMIT:
        raise ValueError(f"it is nested more than {DEPTH_LIMIT} deep")
    if len(outside.translate(None, _BLANKS)) > _OUTSIDE_STRINGS_BYTES:
        raise ValueError("it has numbers of too many digits")


def _depth(brackets: bytes) -> int:
    depth = deepest = 0
    for bracket in brackets:
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{name[:100]!r} is given twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
