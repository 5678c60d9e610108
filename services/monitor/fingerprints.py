"""What makes two errors one fault: source, code, cause, place in the code, and words without ids and figures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

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
_CAUSES = {
    "http_status": re.compile(r"[1-5]\d\d$"),
    "sqlstate": re.compile(r"[0-9A-Z]{5}$"),
    "s3_code": re.compile(r"[A-Za-z0-9]{1,60}$"),
    "cause": re.compile(r"[A-Za-z_][A-Za-z_.]{0,60}(?=:|$)"),
    "exception": re.compile(r"[A-Za-z_][A-Za-z_.]{0,60}$"),
}
_PLACE = re.compile(r"^.*?(?:site-packages/|/(?=(?:libs|services|sandbox)/))")


def template(message: str) -> str:
    """The message with a star for each part that differs from one time to the next."""
    return _VARIABLE.sub("*", message)


def frames(stack: str) -> list[str]:
    """The innermost frames of a traceback, as file and function: lines move with each edit."""
    return [f"{_PLACE.sub('', file)}:{function}" for file, function in _FRAME.findall(stack)][-_FRAMES:]


def cause(context: Mapping[str, Any]) -> list[str]:
    """What an error's context says of its cause, each `name=value`.

    These are the HTTP status, the SQLSTATE of Postgres, the code of S3 and the class of the exception. Values of any
    other form are left out, so that no id or text makes a group of its own.
    """
    details = context.get("details")
    facts = {**context, **details} if isinstance(details, Mapping) else context
    found = {name: form.match(_word(facts.get(name))) for name, form in _CAUSES.items()}
    return [f"{name}={match[0]}" for name, match in found.items() if match]


def _word(value: Any) -> str:
    # Numbers of a Struct are floats.
    if isinstance(value, float):
        return f"{value:.0f}"
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""


def fingerprint(source: str, code: str, message: str, stack: str, causes: Sequence[str] = ()) -> str:
    """32 hexadecimal characters that are the same for all errors that are one fault. `causes`: see `cause`."""
    parts = [source, code, template(message), *frames(stack), *causes]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[: _HASH_BYTES * 2]
