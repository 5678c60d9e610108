"""Files inside texts: base64 and `data:` URLs in every spelling that vendors and relays use.

What a vendor sends is paid for: it is read as generously as it can be, and never refused for its spelling.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

import filetype

_PREFIX = re.compile(r"\s*(data:[^,]{0,300}|(?:[\w.+/-]{0,100};)?\s*base64\s*),", re.IGNORECASE)
_ALPHABET = re.compile(rb"[A-Za-z0-9+/]*")
_SNIFF_BYTES = 8_192
# The alphabet of URLs becomes the usual one; what lines, quotes and padding are made of goes.
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n\v\f\"'="


def is_data_url(text: str) -> bool:
    """Whether a URL holds its file itself."""
    return text[:5].lower() == "data:"


def content_of(text: str) -> bytes | None:
    """The bytes of a `data:` URL or of base64; None where the text is neither."""
    match = _PREFIX.match(text)
    if match is None:
        return _from_base64(text)
    payload = text[match.end() :]
    from_base64 = _from_base64(payload)
    if "base64" in match[1].lower() or (from_base64 is not None and is_media(from_base64)):
        return from_base64
    return unquote_to_bytes(payload)


def is_media(content: bytes) -> bool:
    """Whether bytes begin as an image or a video does."""
    kind = filetype.guess(content[:_SNIFF_BYTES])
    return kind is not None and kind.mime.startswith(("image/", "video/"))


def _from_base64(text: str) -> bytes | None:
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    if b"%" in raw:
        raw = unquote_to_bytes(raw)
    if b"\\" in raw:
        raw = raw.replace(b"\\n", b"").replace(b"\\r", b"").replace(b"\\/", b"/")
    raw = raw.translate(_STANDARD, _BLANKS)
    if not raw or _ALPHABET.fullmatch(raw) is None:
        return None
    try:
        return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4))
    except binascii.Error:
        return None
