"""Draws a picture from a prompt: same prompt, seed and size, same picture, as a real PNG, JPEG or WebP file."""

from __future__ import annotations

import hashlib
import io
import textwrap
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont, ImageOps

Format = Literal["png", "jpeg", "webp"]


def words_of(prompt: str) -> str:
    """What of a prompt is drawn: directives and what follows a `#` are not."""
    return prompt.partition(" [sim ")[0].partition(" #")[0]


def draw(prompt: str, seed: int, width: int, height: int, kind: Format) -> bytes:
    """A picture of `width` by `height` pixels with the prompt written on it."""
    return _draw(words_of(prompt), seed, width, height, kind)


@lru_cache(maxsize=256)
def _draw(prompt: str, seed: int, width: int, height: int, kind: Format) -> bytes:
    digest = hashlib.sha256(f"{prompt}/{seed}".encode()).digest()
    dark, light = (digest[0] // 3, digest[1] // 3, digest[2] // 3), tuple(128 + value // 2 for value in digest[3:6])
    field = Image.radial_gradient("L") if digest[6] % 2 else Image.linear_gradient("L")
    picture = ImageOps.colorize(field.resize((width, height)), black=light, white=dark)
    canvas = ImageDraw.Draw(picture)
    for index in range(5):
        x, y, radius = (digest[7 + 3 * index + offset] / 255 for offset in range(3))
        reach = 8 + radius * min(width, height) / 5
        box = (x * width - reach, y * height - reach, x * width + reach, y * height + reach)
        canvas.ellipse(box, outline=tuple(digest[22 + index : 25 + index]), width=max(2, width // 150))
    size = max(10, width // 24)
    lines = textwrap.wrap(prompt, width=34)[:6]
    canvas.multiline_text(
        (size, height - size * 1.4 * (len(lines) + 1)), "\n".join(lines), fill="white",
        font=ImageFont.load_default(size), spacing=size * 0.3, stroke_width=max(1, size // 16), stroke_fill="black",
    )  # fmt: skip
    buffer = io.BytesIO()
    picture.save(buffer, kind.upper(), quality=88)
    return buffer.getvalue()
