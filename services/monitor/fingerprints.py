"""What makes two errors one fault: source, code, place in the code, and words once ids and figures are gone."""

from __future__ import annotations

import hashlib
import re

_HASH_BYTES = 16
_FRAMES = 5
# What differs from one time to the next, the most particular first.
_VARIABLE = re.compile(
    r"https?://\S+"
    r"|\b[a-z]{2,6}_[0-9a-hjkmnp-tv-z]{26}\b"
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{16,}\b"
    r"|\"[^\"]*\"|'[^']*'|`[^`]*`"
    r"|0x[0-9a-fA-F]+"
    r"|\d+(?:[.,:]\d+)*"
)
_FRAME = re.compile(r'File "([^"]+)", line \d+, in (\S+)')
_PLACE = re.compile(r"^.*?(?:site-packages/|/(?=(?:libs|services|sandbox)/))")


def template(message: str) -> str:
    """The message with a star for each part that differs from one time to the next."""
    return _VARIABLE.sub("*", message)


def frames(stack: str) -> list[str]:
    """The innermost frames of a traceback, as file and function: lines move with each edit."""
    return [f"{_PLACE.sub('', file)}:{function}" for file, function in _FRAME.findall(stack)][-_FRAMES:]


def fingerprint(source: str, code: str, message: str, stack: str) -> str:
    """32 hexadecimal characters that are the same for all errors that are one fault."""
    parts = [source, code, template(message), *frames(stack)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[: _HASH_BYTES * 2]
