"""Whether a file is whole or cut off, by what its own format says of its end.

A host may close the connection without the last chunk of a body (RFC 9112, 7.1), although all of the file was sent; or
send, by all rules of HTTP, what it has of a file that is still being written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_HEAD_BYTES = 16
_BOXES_LIMIT = _SEGMENTS_LIMIT = 1_000
_PNG_CHUNKS_LIMIT = 100_000
# Cameras and editors write other data behind the end of a JPEG.
_JPEG_TRAILER_BYTES = 64 * 1024
_START_OF_SCAN = 0xDA
_RIFF_HEAD_BYTES = 12
_PNG_HEAD, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_HEAD, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


def has_its_end(file: IO[bytes], size_bytes: int) -> bool:
    """Return whether a file is whole by its format's own account: a mark at its end, or the sizes that it states.

    Sources: PNG, 5.6 (W3C); JPEG, B.1.1.3 (ITU-T T.81); the RIFF container of WebP (RFC 9649, 2.3); boxes of ISO base
    media files, 4.2 (ISO/IEC 14496-12), which MP4, QuickTime, AVIF and HEIC are. False for any other format.

    Args:
        file: open at any place, where it is left.
        size_bytes: how long it is.
    """
    with _head_of(file) as head:
        if head.startswith(_PNG_HEAD):
            return _ends_with(file, _PNG_END)
        if head.startswith(_JPEG_HEAD):
            # A thumbnail in a segment before the scan ends in the same way.
            return _ends_with(file, _JPEG_END) and _has_scan(file, size_bytes)
        if _is_webp(head):
            return _stated_bytes(head) == size_bytes and _has_all_chunks(file, size_bytes)
        return head[4:8] == b"ftyp" and _has_all_boxes(file, size_bytes)


def is_cut_off(file: IO[bytes], size_bytes: int) -> bool:
    """Return whether a file's own format says that more follows. Data behind its end is none of it.

    Sources: as for `has_its_end`. False for any other format, and where that cannot be known.

    Args:
        file: open at any place, where it is left.
        size_bytes: how long it is.
    """
    with _head_of(file) as head:
        if head.startswith(_PNG_HEAD):
            return _lacks_last_chunk(file, size_bytes)
        if head.startswith(_JPEG_HEAD):
            file.seek(max(0, size_bytes - _JPEG_TRAILER_BYTES))
            return _JPEG_END not in file.read()
        if _is_webp(head):
            return _stated_bytes(head) > size_bytes
        return head[4:8] == b"ftyp" and _lacks_boxes(file, size_bytes)


@contextmanager
def _head_of(file: IO[bytes]) -> Iterator[bytes]:
    """The first bytes of a file, whose place is afterwards what it was."""
    place = file.tell()
    try:
        file.seek(0)
        yield file.read(_HEAD_BYTES)
    finally:
        file.seek(place)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _stated_bytes(head: bytes) -> int:
    """The size of a RIFF file by its own account."""
    return int.from_bytes(head[4:8], "little") + 8


def _lacks_last_chunk(file: IO[bytes], size_bytes: int) -> bool:
    """Whether the chunks of a PNG lead out of the file before its last one."""
    place = len(_PNG_HEAD)
    for _ in range(_PNG_CHUNKS_LIMIT):
        file.seek(place)
        head = file.read(8)
        place += 12 + int.from_bytes(head[:4], "big")
        if place > size_bytes:
            return True
        if head[4:] == b"IEND" or not head[4:].isalpha():
            return False
    return False


def _lacks_boxes(file: IO[bytes], size_bytes: int) -> bool:
    """Whether a box of the file reaches beyond it, or the boxes fill it and hold no content with its index."""
    kinds: set[bytes] = set()
    place = 0
    for kind, box_bytes in _boxes(file, size_bytes):
        kinds.add(kind)
        place += box_bytes
    if place >= size_bytes:
        return not (kinds & {b"meta", b"moof"} or kinds >= {b"moov", b"mdat"})
    file.seek(place)
    head = file.read(_HEAD_BYTES)
    # A size of 0 means to the end of the file.
    return len(head) < 8 or _box_bytes(head) > size_bytes - place


def _ends_with(file: IO[bytes], end: bytes) -> bool:
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(max(0, size_bytes - len(end)))
    return file.read() == end


def _has_scan(file: IO[bytes], size_bytes: int) -> bool:
    """Whether the segments of a JPEG lead to its scan, within the file."""
    place = 2
    for _ in range(_SEGMENTS_LIMIT):
        file.seek(place)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF:
            return False
        if head[1] == _START_OF_SCAN:
            return True
        place += 2 + int.from_bytes(head[2:], "big")
        if place >= size_bytes:
            return False
    return False


def _has_all_boxes(file: IO[bytes], size_bytes: int) -> bool:
    """Whether the boxes fill the file and hold its index and its content.

    A file of fragments may have any number of them, so it does not tell its end.
    """
    sizes: dict[bytes, int] = {}
    place = 0
    for kind, box_bytes in _boxes(file, size_bytes):
        sizes[kind] = max(box_bytes, sizes.get(kind, 0))
        place += box_bytes
    index_bytes = max(sizes.get(b"moov", 0), sizes.get(b"meta", 0))
    is_filled = min(index_bytes, sizes.get(b"mdat", 0)) > _HEAD_BYTES
    return place == size_bytes and is_filled and b"moof" not in sizes


def _has_all_chunks(file: IO[bytes], size_bytes: int) -> bool:
    """Whether the chunks of a RIFF file fill it, and none is empty (RFC 9649, 2.3: an odd size is padded)."""
    place = _RIFF_HEAD_BYTES
    for _ in range(_BOXES_LIMIT):
        file.seek(place)
        head = file.read(8)
        chunk_bytes = int.from_bytes(head[4:8], "little")
        if len(head) < 8 or chunk_bytes == 0:
            return False
        place += 8 + chunk_bytes + chunk_bytes % 2
        if place >= size_bytes:
            return place == size_bytes
    return False


def _boxes(file: IO[bytes], size_bytes: int) -> Iterator[tuple[bytes, int]]:
    """The kind and the size in bytes of each box at the top; ends at one that does not fit, or states no size."""
    place = 0
    for _ in range(_BOXES_LIMIT):
        file.seek(place)
        head = file.read(_HEAD_BYTES)
        box_bytes = _box_bytes(head)
        if box_bytes < 8 or place + box_bytes > size_bytes:
            return
        yield head[4:8], box_bytes
        place += box_bytes


def _box_bytes(head: bytes) -> int:
    """The size that the first bytes of a box state."""
    size_bytes = int.from_bytes(head[:4], "big")
    return int.from_bytes(head[8:16], "big") if size_bytes == 1 else size_bytes
