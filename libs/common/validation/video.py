"""Rules of video parameters that several vendors share."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Annotated

from pydantic import AfterValidator, Field

from libs.common.validation.common import LongText
from libs.common.validation.image import SizeOrRatio, explicit_size


def ratio_of(size_or_ratio: str) -> str:
    """`1280x720` → `16:9`; a ratio as it is."""
    size = explicit_size(size_or_ratio)
    if size is None:
        return size_or_ratio
    divisor = gcd(size.width, size.height)
    return f"{size.width // divisor}:{size.height // divisor}"


def _only(*ratios: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if ratio_of(text) not in ratios:
            raise ValueError(f"must be one of {', '.join(ratios)}, or a size of such a ratio")
        return text

    return check


WideTallOrSquare = Annotated[SizeOrRatio, AfterValidator(_only("16:9", "9:16", "1:1"))]
WideOrTall = Annotated[SizeOrRatio, AfterValidator(_only("16:9", "9:16"))]
NegativePrompt = Annotated[LongText, Field(description="What the video should not show.")]
