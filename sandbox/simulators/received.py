"""The pictures that come with a request: found wherever the request has them, and looked at as a vendor would."""

from __future__ import annotations

import asyncio
import binascii
import hashlib
import io
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from PIL import Image
from yarl import URL

Source = bytes | str
"""A file's content; or an http(s) URL, a data URL or bare base64."""
_HERE = {"127.0.0.1", "localhost"}


@dataclass(frozen=True, slots=True)
class PictureRules:
    """What a vendor takes: formats as Pillow names them, sides in pixels, the longer side over the shorter one."""

    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")
    shortest_side: int = 1
    widest: float | None = None
    size: tuple[int, int] | None = None


async def contents(sources: Sequence[Source]) -> list[bytes]:
    """The files themselves. ValueError for what is none. URLs of other machines cannot be looked at from here."""
    found = [await _content(source) for source in sources]
    return [content for content in found if content is not None]


async def _content(source: Source) -> bytes | None:
    if isinstance(source, bytes):
        return source
    if source.startswith(("http://", "https://")):
        return await _fetched(source) if URL(source).host in _HERE else None
    try:
        return b64decode(source.partition(";base64,")[2] or source, validate=True)
    except binascii.Error as error:
        raise ValueError("the image is not base64") from error


async def _fetched(url: str) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(url) as reply:
        if reply.status != 200:
            raise ValueError(f"the image's URL answers {reply.status}")
        return await reply.read()


async def check(picture: bytes, rules: PictureRules) -> None:
    """Raise ValueError for a picture that the vendor would not take."""
    format_name, size = await asyncio.to_thread(_looked_at, picture)
    if format_name not in rules.formats:
        raise ValueError(f"the image is {format_name}; {', '.join(rules.formats)} are taken")
    if min(size) < rules.shortest_side:
        raise ValueError(f"the image is {size}; sides have at least {rules.shortest_side} pixels")
    if rules.widest is not None and max(size) > rules.widest * min(size):
        raise ValueError(f"the image is {size}; that is too long")
    if rules.size not in {None, size}:
        raise ValueError(f"the image is {size}; it must be {rules.size}")


def _looked_at(picture: bytes) -> tuple[str, tuple[int, int]]:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            return str(image.format), image.size
    except OSError as error:
        raise ValueError("the image cannot be read") from error


def facts(picture: bytes) -> dict[str, Any]:
    """What tests ask about a picture."""
    return {"sha256": hashlib.sha256(picture).hexdigest(), "content": b64encode(picture).decode()}
