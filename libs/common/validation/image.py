"""Rules of image parameters that several vendors share."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

RATIOS = ("1:1", "4:3", "3:4", "16:9", "9:16", "21:9", "9:21")
_SIZE = re.compile(r"([1-9]\d{1,4})x([1-9]\d{1,4})")


class Size(NamedTuple):
    """In pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def _size_or_ratio(text: str) -> str:
    if text not in RATIOS and not _SIZE.fullmatch(text):
        raise ValueError(f"must be one of {', '.join(RATIOS)}, or WIDTHxHEIGHT in pixels")
    return text


SizeOrRatio = Annotated[
    str,
    AfterValidator(_size_or_ratio),
    Field(
        description="A ratio or a size in pixels, for instance 16:9 or 1024x768.",
        json_schema_extra={"examples": ["1024x1024", "16:9"]},
    ),
]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="The same seed and prompt give a like image.")]


def explicit_size(size_or_ratio: str) -> Size | None:
    """`1024x768` → (1024, 768); None for a ratio."""
    match = _SIZE.fullmatch(size_or_ratio)
    return Size(int(match[1]), int(match[2])) if match else None


def size_for_ratio(ratio: str, *, pixels: int, multiple: int, least: int, most: int) -> Size:
    """The size of about `pixels` pixels whose sides are multiples of `multiple` within bounds and near to `ratio`."""
    across, down = (int(part) for part in ratio.split(":"))

    def side(length: float) -> int:
        return int(min(most, max(least, round(length / multiple) * multiple)))

    return Size(side((pixels * across / down) ** 0.5), side((pixels * down / across) ** 0.5))
