"""Images of every kind, made on the spot."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

from PIL import Image, ImageCms

Colour = tuple[int, int, int]
# One for each quarter, from the top left by rows: whatever is turned or mirrored shows.
CORNERS: tuple[Colour, ...] = ((220, 40, 40), (40, 200, 60), (50, 60, 210), (230, 220, 50))


def quarters(width: int = 64, height: int = 48, mode: str = "RGB", alpha: int = 255) -> Image.Image:
    """An image of four coloured quarters."""
    image = Image.new("RGB", (width, height))
    for index, colour in enumerate(CORNERS):
        at = (index % 2 * (width // 2), index // 2 * (height // 2))
        image.paste(colour, (*at, at[0] + width // 2, at[1] + height // 2))
    if mode in {"RGBA", "LA"}:
        image.putalpha(alpha)
    return image if image.mode == mode else image.quantize(16) if mode == "P" else image.convert(mode)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth shapes with some grain, as a camera makes them."""
    channels = []
    for index in range(3):
        coarse = (
            Image.radial_gradient("L").rotate(37 * (seed + index)).resize((width, height), Image.Resampling.BICUBIC)
        )
        blobs = Image.effect_noise((12 + seed % 7, 9 + index), 90).resize((width, height), Image.Resampling.BICUBIC)
        grain = Image.effect_noise((width, height), 12)
        channels.append(Image.blend(Image.blend(coarse, blobs, 0.5), grain, 0.15))
    return Image.merge("RGB", channels)


def noise(width: int, height: int, _: int = 0) -> Image.Image:
    """What compresses worst."""
    return Image.merge("RGB", [Image.effect_noise((width, height), 120) for _ in range(3)])


def flat(width: int, height: int, seed: int = 0) -> Image.Image:
    """A drawing: few colours with sharp edges."""
    image = Image.new("RGB", (width, height), (240, 240, 235))
    for index in range(40):
        left, top = (index * 97 + seed * 31) % width, (index * 61 + seed * 17) % height
        colour = (index * 53 % 256, index * 101 % 256, (seed * 40 + index * 29) % 256)
        image.paste(colour, (left, top, min(width, left + 90), min(height, top + 60)))
    return image


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file of a format of Pillow's."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    """A file as an image."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    """The levels of a pixel of an image of several channels."""
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return tuple(int(level) for level in found)


@cache
def profile(name: str) -> bytes:
    """A colour profile: `sRGB`, or `swapped`, an sRGB whose red and green primaries have changed places."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if name == "sRGB":
        return content
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    swapped = bytearray(content)
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    # lcms knows its own by the description.
    return bytes(swapped).replace("sRGB built-in".encode("utf-16-be"), "swapped rgb!!".encode("utf-16-be"))


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG with its length and checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of_zeros(width: int, height: int, *chunks: bytes, said: tuple[int, int] | None = None) -> bytes:
    """A black RGB PNG that is tiny for its size. `said`: what the header says instead."""
    packer, row = zlib.compressobj(9), bytes(width * 3 + 1)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", *(said or (width, height)), 8, 2, 0, 0, 0)
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_of_16_bits(rows: list[list[int]]) -> bytes:
    """A grey PNG of 16 bits a pixel."""
    raw = b"".join(b"\x00" + struct.pack(f">{len(row)}H", *row) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 16, 0, 0, 0, 0)
    parts = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(raw)), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
