"""What an image file says of itself, read without decoding anything, and the limits that hold before that.

The type is found in the content alone. Decoders allocate by what a header promises, some of them as soon as they open
a file, so the promise is looked at first. Sources: PNG (W3C, third edition), JPEG (ITU-T T.81), RIFF and WebP (RFC
9649), GIF89a, ISO/IEC 14496-12 and 23008-12 for AVIF and HEIC.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import filetype

from libs.common.imaging.config import LONGEST_SIDE
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.sizes import Size

SourceFormat = Literal["png", "jpeg", "webp", "gif", "avif", "heic"]
_FORMATS: dict[str, SourceFormat] = {
    "image/png": "png",
    "image/apng": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
    "image/gif": "gif",
}
_ISO_FORMATS: tuple[tuple[SourceFormat, set[bytes]], ...] = (
    ("avif", {b"avif", b"avis"}),
    ("heic", {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"}),
)
_SNIFF_BYTES = 8_192
# Markers of JPEG (ITU-T T.81, table B.1).
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_WITHOUT_LENGTH = {0x00, 0x01, 0xFF, *range(0xD0, 0xD9)}
_SEQUENCE_BRANDS = {b"avis", b"hevc", b"msf1", b"heis"}


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """What is read at all, and `pixels` of what is made.

    `scans`: of a JPEG, each of which goes over all of its pixels. Encoders write 10 where an image is progressive, 18
    where it is CMYK too (libjpeg-turbo's jcparam.c). `chunk_bytes`: of one piece of metadata; `profile_bytes`: of a
    colour profile, inflated.
    """

    size_bytes: int = 30_000_000
    longest_side: int = LONGEST_SIDE
    pixels: int = 64_000_000
    frames: int = 1_000
    scans: int = 32
    chunk_bytes: int = 8_000_000
    profile_bytes: int = 4_000_000


@dataclass(frozen=True, slots=True)
class Header:
    """What a file promises. `size` before its orientation is applied; `frames` 1 for a still image."""

    format: SourceFormat
    size: Size
    frames: int = 1


def read(content: bytes, limits: SourceLimits) -> Header:
    """The header of an image file. ImageFault where it is none, or promises more than `limits` allow."""
    if len(content) > limits.size_bytes:
        raise ImageFault("size", f"has {len(content):,} bytes; at most {limits.size_bytes:,} are taken")
    found = _format(content)
    try:
        header = _READERS[found](content, limits)
    except (struct.error, IndexError) as error:
        raise ImageFault("truncated", f"ends in the middle of its {found.upper()} header") from error
    _check(header, limits)
    return header


def _format(content: bytes) -> SourceFormat:
    head = content[:_SNIFF_BYTES]
    kind = filetype.guess(head)
    found = _FORMATS.get(kind.mime) if kind and kind.mime in _FORMATS else _iso_format(content)
    if found is not None:
        return found
    if b"<svg" in head.lower():
        raise ImageFault("not_an_image", "is SVG, which is a program rather than a picture and is not taken")
    what = f"its content is {kind.mime}" if kind else "its content is of no known type"
    raise ImageFault("not_an_image", f"is not PNG, JPEG, WebP, GIF, AVIF or HEIC: {what}")


def _iso_format(content: bytes) -> SourceFormat | None:
    brands = _brands(content)
    return next((found for found, known in _ISO_FORMATS if brands & known), None)


def _brands(content: bytes) -> set[bytes]:
    """What an ISO media file calls itself; empty for any other."""
    if content[4:8] != b"ftyp":
        return set()
    end = min(struct.unpack_from(">I", content, 0)[0], len(content), 256)
    return {content[at : at + 4] for at in range(8, end, 4)}


def _check(header: Header, limits: SourceLimits) -> None:
    size = header.size
    if min(size) < 1:
        raise ImageFault("dimensions", f"has no pixels: it says {size}")
    if max(size) > limits.longest_side:
        raise ImageFault("dimensions", f"is {size} pixels; a side has at most {limits.longest_side:,}")
    if size.pixels > limits.pixels:
        raise ImageFault("pixels", f"has {size.pixels:,} pixels; at most {limits.pixels:,} are taken")
    if header.frames > limits.frames:
        raise ImageFault("frames", f"has more than {limits.frames:,} frames")


def _check_chunk(name: bytes, length: int, limits: SourceLimits) -> None:
    if length > limits.chunk_bytes:
        shown = name.decode("ascii", "replace")
        raise ImageFault("chunk_size", f"has {length:,} bytes in one {shown} chunk; at most {limits.chunk_bytes:,}")


def _check_profile(length: int, limits: SourceLimits) -> None:
    if length > limits.profile_bytes:
        raise ImageFault("profile_size", f"has a colour profile of more than {limits.profile_bytes:,} bytes")


def _png(content: bytes, limits: SourceLimits) -> Header:
    size, frames = Size(*struct.unpack_from(">II", content, 16)), 1
    at = 8
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        if name in {b"IDAT", b"IEND"}:
            break
        _check_chunk(name, length, limits)
        if name == b"acTL":
            frames = struct.unpack_from(">I", content, at + 8)[0]
        elif name == b"iCCP":
            _check_profile(_inflated(content[at + 8 : at + 8 + length], limits.profile_bytes), limits)
        at += 12 + length
    return Header("png", size, max(1, frames))


def _inflated(chunk: bytes, limit: int) -> int:
    """How large the profile in an iCCP chunk is, as far as the limit and a byte more."""
    _, _, packed = chunk.partition(b"\x00")
    try:
        return len(zlib.decompressobj().decompress(packed[1:], limit + 1))
    except zlib.error:
        return 0


def _jpeg(content: bytes, limits: SourceLimits) -> Header:
    size, profile_bytes = None, 0
    for marker, at, length in _jpeg_segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            height, width = struct.unpack_from(">HH", content, at + 1)
            size = Size(width, height)
        elif marker == 0xE2 and content[at : at + 12] == b"ICC_PROFILE\x00":
            profile_bytes += length
            _check_profile(profile_bytes, limits)
    if size is None:
        raise ImageFault("truncated", "ends before its JPEG frame header")
    if content.count(b"\xff\xda") > limits.scans and _scans(content) > limits.scans:
        raise ImageFault("scans", f"has more than {limits.scans} scans, which no encoder writes")
    return Header("jpeg", size)


def _scans(content: bytes) -> int:
    """How many scans a JPEG has, up to its end or to what is no marker."""
    found, at = 0, 2
    while (at := content.find(b"\xff", at)) != -1 and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == _END_OF_IMAGE:
            break
        if marker in _WITHOUT_LENGTH:
            # In a scan: a byte that is stuffed, or a restart. 0xFF may be a filling byte of what follows.
            at += 1 if marker == 0xFF else 2
            continue
        found += marker == _START_OF_SCAN
        at += 2 + max(2, struct.unpack_from(">H", content, at + 2)[0])
    return found


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, position and length in bytes of each segment before the pixels."""
    at = 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            at += 1
            continue
        marker = content[at + 1]
        if marker in _WITHOUT_LENGTH:
            at += 1
            continue
        if marker in {_END_OF_IMAGE, _START_OF_SCAN}:
            return
        length = struct.unpack_from(">H", content, at + 2)[0]
        yield marker, at + 4, length - 2
        at += 2 + max(2, length)


def _webp(content: bytes, limits: SourceLimits) -> Header:
    # Some writers leave out the byte that pads it.
    if struct.unpack_from("<I", content, 4)[0] + 7 > len(content):
        raise ImageFault("truncated", "ends before its WebP image does")
    size, frames, at = None, 0, 12
    while at + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, at)
        body = content[at + 8 : at + 8 + 10]
        if name == b"VP8X":
            size = Size(1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little"))
        elif name == b"ANMF":
            frames += 1
        elif size is None and name == b"VP8 ":
            width, height = struct.unpack_from("<HH", body, 6)
            size = Size(width & 0x3FFF, height & 0x3FFF)
        elif size is None and name == b"VP8L":
            bits = struct.unpack_from("<I", body, 1)[0]
            size = Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
        elif name in {b"ICCP", b"EXIF", b"XMP "}:
            _check_chunk(name, length, limits)
            _check_profile(length if name == b"ICCP" else 0, limits)
        at += 8 + length + (length & 1)
    if size is None:
        raise ImageFault("truncated", "ends before its WebP image")
    return Header("webp", size, max(1, frames))


def _gif(content: bytes, limits: SourceLimits) -> Header:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    frames, at = 0, 13 + _table_bytes(flags)
    while at < len(content) and frames <= limits.frames:
        if content[at] == 0x21:
            at = _after_blocks(content, at + 2)
        elif content[at] == 0x2C and at + 10 <= len(content):
            frames += 1
            at = _after_blocks(content, at + 11 + _table_bytes(content[at + 9]))
        else:
            break
    return Header("gif", Size(width, height), max(1, frames))


def _table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    """Where the blocks that begin at `at` end: each has its length before it, the last has none."""
    while at < len(content) and content[at]:
        at += 1 + content[at]
    return at + 1


def _avif(content: bytes, limits: SourceLimits) -> Header:
    return _iso("avif", content, limits)


def _heic(content: bytes, limits: SourceLimits) -> Header:
    return _iso("heic", content, limits)


def _iso(found: SourceFormat, content: bytes, limits: SourceLimits) -> Header:
    """The largest of the sizes that an ISO media file names: an image in tiles names theirs as well."""
    largest = Size(0, 0)
    for _, start, end in _named(content, (0, len(content)), b"meta"):
        for size in _sizes(content, (start + 4, end), limits):
            largest = max(largest, size, key=lambda one: one.pixels)
    if largest == Size(0, 0):
        raise ImageFault("truncated", f"does not say its size where {found.upper()} does")
    return Header(found, largest, 2 if _brands(content) & _SEQUENCE_BRANDS else 1)


def _sizes(content: bytes, meta: tuple[int, int], limits: SourceLimits) -> Iterator[Size]:
    for _, start, end in _named(content, meta, b"iprp"):
        for _, first, last in _named(content, (start, end), b"ipco"):
            for _, at, _ in _named(content, (first, last), b"ispe"):
                yield Size(*struct.unpack_from(">II", content, at + 4))
            for _, at, until in _named(content, (first, last), b"colr"):
                _check_profile(until - at, limits)


def _named(content: bytes, within: tuple[int, int], name: bytes) -> Iterator[tuple[bytes, int, int]]:
    return (box for box in _boxes(content, *within) if box[0] == name)


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each box."""
    while at + 8 <= end:
        length, name = struct.unpack_from(">I4s", content, at)
        begin = at + 8
        if length == 1:
            length, begin = struct.unpack_from(">Q", content, at + 8)[0], at + 16
        length = length or end - at
        if length < begin - at:
            return
        yield name, begin, min(at + length, end)
        at += length


_READERS: dict[SourceFormat, Callable[[bytes, SourceLimits], Header]] = {
    "png": _png,
    "jpeg": _jpeg,
    "webp": _webp,
    "gif": _gif,
    "avif": _avif,
    "heic": _heic,
}
