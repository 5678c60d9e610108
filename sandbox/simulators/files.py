"""Files that vendors name as outputs and that are not the picture or video that one expects."""

from __future__ import annotations

import io
from typing import Literal

from PIL import Image

OddFile = Literal["svg", "tiff", "bmp", "dash", "zip", "html", "gone"]
"""`dash`: the video with the brands of a DASH segment alone; `html`: an error page; `gone`: 404."""

SVG = b"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"><rect width="4" height="4"/></svg>"""
HTML = b"<html><body>The file is being made.</body></html>"
ZIP = b"PK\x05\x06" + bytes(18)
_BRANDS = (b"iso5", b"iso6", b"dash", b"msdh", b"msix", b"cmfc")


def made(kind: OddFile, content: bytes) -> bytes:
    """The file in place of `content`, a picture or an MP4 video. ValueError for a video that starts with no type."""
    if kind == "svg":
        return SVG
    if kind == "zip":
        return ZIP
    if kind in {"html", "gone"}:
        return HTML
    if kind == "dash":
        return _of_dash(content)
    buffer = io.BytesIO()
    Image.open(io.BytesIO(content)).convert("RGB").save(buffer, kind.upper())
    return buffer.getvalue()


def _of_dash(video: bytes) -> bytes:
    size_bytes = int.from_bytes(video[:4], "big")
    if video[4:8] != b"ftyp":
        raise ValueError("The video does not start with its type.")
    brands = b"".join(_BRANDS[number % len(_BRANDS)] for number in range((size_bytes - 16) // 4))
    # As long as before, so that the offsets in the file stay right.
    return video[:8] + b"iso5" + bytes(4) + brands + video[size_bytes:]
