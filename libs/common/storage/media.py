"""What a file is, by its first bytes: pictures and videos of any kind, text, or something else."""

from __future__ import annotations

import re
from dataclasses import dataclass

import filetype

SNIFF_BYTES = 8_192
"""So many of a file's first bytes tell what it is."""

OCTET_STREAM = "application/octet-stream"

INLINE_TYPES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/gif",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/quicktime",
    }
)
"""The types that browsers show and never run. Whatever else a result is, it is offered as a download."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A media type with the extension of its files."""

    content_type: str
    extension: str


UNKNOWN = Kind(OCTET_STREAM, "bin")
"""A file of no known type."""

_PNG = Kind("image/png", "png")
_AVIF = Kind("image/avif", "avif")
_HEIC = Kind("image/heic", "heic")
_HEIF = Kind("image/heif", "heif")
_JXL = Kind("image/jxl", "jxl")
_TIFF = Kind("image/tiff", "tif")
_BMP = Kind("image/bmp", "bmp")
_MP4 = Kind("video/mp4", "mp4")
_QUICKTIME = Kind("video/quicktime", "mov")
_WEBM = Kind("video/webm", "webm")
_MATROSKA = Kind("video/x-matroska", "mkv")
_TRANSPORT = Kind("video/mp2t", "ts")
_AUDIO = Kind("audio/mp4", "m4a")

# Brands of ISO base media files that are no MP4 (registered at mp4ra.org).
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), _AVIF),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), _HEIC),
    **dict.fromkeys((b"mif1", b"msf1", b"mif2", b"heif"), _HEIF),
    **dict.fromkeys((b"M4A ", b"M4B ", b"M4P ", b"F4A ", b"F4B "), _AUDIO),
    b"qt  ": _QUICKTIME,
    b"crx ": Kind("image/x-canon-cr3", "cr3"),
}
_SIGNATURES = (
    (b"\xff\x0a", _JXL),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", _JXL),
    (b"II+\x00", _TIFF),
    (b"MM\x00+", _TIFF),
)
_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
_TRANSPORT_PACKET_BYTES = 188
_MARKUP = re.compile(rb"<[A-Za-z!?/]")
_JSON = re.compile(rb"""[{\[]\s*(["{\[\]}\d]|true|false|null|-)""")
# Without backtracking, for the file may be made to cost much.
_SVG = re.compile(
    rb"""(?>\s|<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s[^\[>]*(?:\[.*?\]\s*)?>)*+<(?:[A-Za-z_][\w.-]*:)?svg[\s>/]""", re.DOTALL
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")
# The control characters that texts have: tabs, ends of lines and pages, and the escapes of terminals.
_CONTROLS = frozenset(range(32)) - frozenset(b"\b\t\n\v\f\r\x1b")


def kind_of(head: bytes) -> Kind | None:
    """The kind of picture, video or sound that a file is.

    Args:
        head: its first `SNIFF_BYTES` bytes.

    Returns None for a file of any other kind, or of none that is known.
    """
    found = _iso_media(head) or _matroska(head) or _signed(head)
    if found is not None or is_text(head):
        return found
    guessed = filetype.guess(head)
    if guessed is None or guessed.mime.partition("/")[0] not in {"image", "video", "audio"}:
        return None
    if guessed.mime == "image/apng":
        return _PNG
    # Two letters make no bitmap.
    return None if guessed.mime == "image/bmp" else Kind(guessed.mime, guessed.extension)


def is_text(head: bytes) -> bool:
    """Whether a file is empty or text: an error page, JSON, plain words in whatever encoding.

    Args:
        head: its first `SNIFF_BYTES` bytes.
    """
    content = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if _MARKUP.match(content) or _JSON.match(content):
        return True
    if head.startswith(_WIDE_MARKS):
        words = head[: len(head) // 2 * 2].decode("utf-16", errors="replace")
        return not any(ord(character) in _CONTROLS or character == "\ufffd" for character in words)
    return not any(byte in _CONTROLS for byte in content)


def is_svg(head: bytes) -> bool:
    """Whether a file is an SVG picture. It is text that can hold scripts, so that no browser may show it as it is.

    Args:
        head: its first `SNIFF_BYTES` bytes.
    """
    return _SVG.match(head.removeprefix(_BYTE_ORDER_MARK)) is not None


def _iso_media(head: bytes) -> Kind | None:
    box, size_bytes = head[4:8], int.from_bytes(head[:4], "big")
    if box in {b"moov", b"mdat", b"wide"} and len(head) >= 16:
        # QuickTime wrote files without their type for a long time.
        return _QUICKTIME if size_bytes >= 8 or size_bytes in {0, 1} else None
    if box not in {b"ftyp", b"styp"} or size_bytes < 16 or len(head) < 16:
        return None
    major = head[8:12]
    brands = [head[begin : begin + 4] for begin in range(16, min(size_bytes, len(head)) - 3, 4)]
    if major.startswith((b"3gp", b"3g2")):
        return Kind("video/3gpp", "3gp")
    found = _BRANDS.get(major, _MP4)
    if found is not _HEIF:
        return found
    named = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
    return next((kind for kind in named if kind in {_AVIF, _HEIC}), _HEIF)


def _matroska(head: bytes) -> Kind | None:
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    return _WEBM if b"webm" in head[:128] else _MATROSKA


def _signed(head: bytes) -> Kind | None:
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return _BMP
    packets = [head[begin : begin + 1] for begin in range(0, 3 * _TRANSPORT_PACKET_BYTES, _TRANSPORT_PACKET_BYTES)]
    return _TRANSPORT if packets == [b"G"] * 3 and not is_text(head) else None
