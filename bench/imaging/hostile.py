"""Image files made to do harm: bombs, broken ones, and ones that are two things at once."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pillow_heif
from PIL import Image

from bench.imaging.pictures import photo, png_chunk, png_of_zeros, profile, quarters, written

PAYLOAD = b"<?php system($_GET['c']); ?><script>alert(1)</script>"


@cache
def samples(width: int = 64, height: int = 48) -> dict[str, bytes]:
    """A good file of each format and of its variants."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image, extra = photo(width, height), {"icc_profile": profile("swapped"), "exif": exif}
    heic = io.BytesIO()
    pillow_heif.from_pillow(image).save(heic, quality=60)
    return {
        "png": written(image.convert("RGBA"), "PNG", **extra),
        "png palette": written(quarters(width, height, mode="P"), "PNG", transparency=1),
        "jpeg": written(image, "JPEG", **extra),
        "jpeg progressive": written(image, "JPEG", progressive=True),
        "jpeg cmyk": written(image.convert("CMYK"), "JPEG"),
        "webp": written(image, "WEBP", **extra),
        "webp lossless": written(image.convert("RGBA"), "WEBP", lossless=True),
        "gif": written(quarters(width, height, mode="P"), "GIF"),
        "gif animated": written(image, "GIF", save_all=True, append_images=[photo(width, height, 1)]),
        "avif": written(image, "AVIF", **extra),
        "heic": heic.getvalue(),
    }


def _profile_bomb() -> bytes:
    return png_of_zeros(8, 8, png_chunk(b"iCCP", b"x\x00\x00" + zlib.compress(bytes(50_000_000), 9)))


def _text_bomb() -> bytes:
    text = png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(3_500_000), 9))
    return png_of_zeros(8, 8, text * 40)


def _changed(image: Image.Image, kind: str, after: bytes, offset: int, said: bytes, **options: Any) -> bytes:
    """A file of which some bytes, so far behind those of `after`, are replaced."""
    file = bytearray(written(image, kind, **options))
    place = file.index(after) + offset
    file[place : place + len(said)] = said
    return bytes(file)


def _webp_canvas() -> bytes:
    exif = Image.Exif().tobytes() + b"x" * 8
    return _changed(photo(64, 48), "WEBP", b"VP8X", 12, b"\xff\x3f\x00\xff\x3f\x00", exif=exif)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png of 400 megapixels": (lambda: png_of_zeros(4_000, 4_000, said=(20_000, 20_000)), "dimensions"),
    "png of 120 megapixels": (lambda: png_of_zeros(4_000, 4_000, said=(12_000, 10_000)), "pixels"),
    "png that says 4 x 4": (lambda: png_of_zeros(6_000, 6_000, said=(4, 4)), "prepared"),
    "png that says far more than it has": (lambda: png_of_zeros(4, 4, said=(8_000, 8_000)), "truncated"),
    "png profile": (_profile_bomb, "profile_size"),
    "png texts": (_text_bomb, "corrupt"),
    "png of one chunk of nothing": (lambda: png_of_zeros(8, 8, png_chunk(b"nOTh", bytes(9_000_000))), "chunk_size"),
    "webp canvas": (_webp_canvas, "pixels"),
    "gif screen": (
        lambda: _changed(quarters(mode="P"), "GIF", b"GIF", 6, struct.pack("<HH", 65_535, 65_535)),
        "dimensions",
    ),
    "gif of 20,000 frames": (lambda: gif_of_frames(20_000), "frames"),
    "jpeg of 4,290 megapixels": (
        lambda: _changed(photo(64, 48), "JPEG", b"\xff\xc0", 5, struct.pack(">HH", 65_500, 65_500)),
        "dimensions",
    ),
    "avif that says 3,600 megapixels": (
        lambda: _changed(photo(64, 48), "AVIF", b"ispe", 8, struct.pack(">II", 60_000, 60_000)),
        "dimensions",
    ),
    "no pixels": (lambda: png_of_zeros(1, 1, said=(0, 5)), "dimensions"),
}
"""Small files that are large once they are decoded: what makes each, and the rule that it breaks, or `prepared`."""


def gif_of_frames(frames: int) -> bytes:
    """A GIF of so many frames of a pixel each."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return head + frame * frames + b"\x3b"


@cache
def polyglots() -> dict[str, bytes]:
    """Files that are an image and something else as well."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("x.php", PAYLOAD)
    png, jpeg, gif = (written(quarters(), kind) for kind in ("PNG", "JPEG", "GIF"))
    comment = b"\xff\xfe" + struct.pack(">H", len(PAYLOAD) + 2) + PAYLOAD
    return {
        "png and zip": png + archive.getvalue(),
        "jpeg and script": jpeg + PAYLOAD,
        "jpeg with a comment": jpeg[:2] + comment + jpeg[2:],
        "gif and script": gif + PAYLOAD,
        "png with a text": png[:33] + png_chunk(b"tEXt", b"x\x00" + PAYLOAD) + png[33:],
        "webp and script": written(quarters(), "WEBP") + PAYLOAD,
    }


@cache
def misnamed() -> list[str]:
    """Good images as data URLs that call them something else."""
    names = ("png", "jpeg", "webp", "gif", "avif", "heic")
    return [
        f"data:image/{name};base64,{b64encode(content).decode()}"
        for kind, content in samples().items()
        for name in names
        if not kind.startswith(name)
    ]


def not_images() -> dict[str, bytes]:
    """What is no image, whatever it is called."""
    return {
        "nothing": b"",
        "text": b"hello",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "svg after xml": b'<?xml version="1.0"?><!DOCTYPE svg><svg xmlns="http://www.w3.org/2000/svg"/>',
        "pdf": b"%PDF-1.7\n" + bytes(200),
        "postscript": b"%!PS-Adobe-3.0\n(%pipe%id) (w) file\n",
        "html": b"<html><script>alert(1)</script></html>",
        "elf": b"\x7fELF" + bytes(100),
        "tiff": written(quarters(), "TIFF"),
        "bmp": written(quarters(), "BMP"),
        "video": b"\x00\x00\x00\x18ftypmp42" + bytes(100),
        "imagemagick": b"push graphic-context\nviewbox 0 0 1 1\nfill 'url(https://x/\"|id\")'\n",
    }


def truncations() -> Iterator[tuple[str, bytes]]:
    """Files cut off at every kilobyte."""
    for name, content in samples(480, 360).items():
        for length in range(0, len(content) - 1, 1_000):
            yield name, content[:length]


def flips(seed: int, number: int) -> Iterator[tuple[str, bytes]]:
    """Good files with one to eight bytes or bits changed; half of the changes are where headers are."""
    chance, files = random.Random(seed), list(samples().items())
    for _ in range(number):
        name, content = chance.choice(files)
        broken = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            if chance.random() < 0.5:
                broken[chance.randrange(min(200, len(broken)))] = chance.randrange(256)
            else:
                broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        yield name, bytes(broken)


def jpeg_of_scans(number: int, size: tuple[int, int], filling: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated until it has so many, each with `filling` before it."""
    content = written(Image.new("RGB", size, "#5a7832"), "JPEG", progressive=True, quality=30)
    scan = content[content.rindex(b"\xff\xda") : -2]
    more = number - content.count(b"\xff\xda")
    return content[:-2] + (filling + scan) * more + content[-2:]
