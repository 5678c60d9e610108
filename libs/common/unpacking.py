"""Content encodings of bodies, undone as far as the bytes bear them out: hosts label plain files as packed.

Source of the encodings: RFC 9110, section 8.4.1.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

from libs.common.encodings import is_media

PIECE_BYTES = 1024**2
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15
_PACKINGS = frozenset({"gzip", "x-gzip", "deflate"})
_LAYERS_LIMIT = 3
_NO_LABEL = ""
_BEGINNINGS = (b"{", b"[", b"<", b'"', b"")

# For sessions that read what was paid for. Hosts send headers larger than aiohttp's default of 8,190 bytes (policies,
# cookies), and label plain bodies as packed, which aiohttp's own unpacking refuses.
READS_PAID_WORK: Final[dict[str, Any]] = {
    "auto_decompress": False,
    "max_line_size": 128 * 1024,
    "max_field_size": 128 * 1024,
    "max_headers": 256,
}


class Unpacker:
    """Unpacks one body, piece by piece.

    Args:
        encoding: its content-encoding, several with commas between them. What does not begin as the data that a label
            names is taken as it is, whatever the label.
        guesses: whether gzip without a label is unpacked as well.
    """

    def __init__(self, encoding: str, *, guesses: bool = False) -> None:
        labels = [label.strip().lower() for label in encoding.split(",")]
        # The last one was applied last.
        self._layers = [_Layer(label) for label in reversed(labels) if label in _PACKINGS][:_LAYERS_LIMIT]
        if guesses and not self._layers:
            self._layers = [_Layer(_NO_LABEL)]

    def unpack(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body hold, in pieces of at most 1 MiB.

        Raises ValueError for data that begins as packed and goes on as something else.
        """
        pieces: Iterator[bytes] = iter((chunk,))
        for layer in self._layers:
            pieces = layer.unpack(pieces)
        return pieces

    def finish(self) -> bytes:
        """Return what was held back of a body of a single byte. Raises ValueError for packed data without its end."""
        rest = b""
        for layer in self._layers:
            rest = b"".join(layer.unpack(iter((rest,)))) + layer.finish()
        return rest


class _Layer:
    """One content encoding."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._head: bytes | None = b""
        self._bits = 0
        self._stream: Any = None

    def unpack(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if piece:
                yield from self._unpacked(piece)

    def finish(self) -> bytes:
        if self._stream is not None and not self._stream.eof:
            raise ValueError("the body ends before its packed data do")
        return self._head or b""

    def _unpacked(self, chunk: bytes) -> Iterator[bytes]:
        if self._head is not None:
            # Two bytes tell what it is.
            chunk = self._head + chunk
            if len(chunk) < len(_GZIP_MAGIC):
                self._head = chunk
                return
            self._head = None
            self._bits = _bits_of(chunk, self._label)
            self._stream = zlib.decompressobj(self._bits) if self._bits else None
        if self._stream is None:
            yield chunk
            return
        yield from self._inflated(chunk)

    def _inflated(self, chunk: bytes) -> Iterator[bytes]:
        try:
            while chunk:
                if self._stream.eof:
                    if not chunk.startswith(_GZIP_MAGIC):
                        return
                    # A file of several members, RFC 1952, section 2.2.
                    self._stream = zlib.decompressobj(self._bits)
                piece = self._stream.decompress(chunk, PIECE_BYTES)
                if piece:
                    yield piece
                chunk = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
        except zlib.error as error:
            raise ValueError("the body does not unpack") from error


def _bits_of(head: bytes, label: str) -> int:
    """The window bits that zlib takes for this data; 0: it is not packed."""
    if head.startswith(_GZIP_MAGIC):
        return _GZIP_BITS
    if label == _NO_LABEL:
        return 0
    # RFC 1950, section 2.2: deflate, and the check of the header.
    if head[0] & 0x0F == 8 and (head[0] * 256 + head[1]) % 31 == 0:
        return _ZLIB_BITS
    # Some servers leave the header of zlib out (RFC 1951). JSON, and files that are known, are not packed at all.
    is_plain = head.lstrip()[:1] in _BEGINNINGS or is_media(head)
    return _RAW_BITS if label == "deflate" and not is_plain and _inflates(head) else 0


def _inflates(head: bytes) -> bool:
    try:
        zlib.decompressobj(_RAW_BITS).decompress(head, PIECE_BYTES)
    except zlib.error:
        return False
    return True
