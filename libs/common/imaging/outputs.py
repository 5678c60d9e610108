"""How large an image may become, checked before its pixels are decoded."""

from __future__ import annotations

from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.headers import SourceFormat, SourceLimits
from libs.common.imaging.sizes import Size, layout

# WEBP_MAX_DIMENSION in libwebp's encode.h. What other formats allow is beyond `config.LONGEST_SIDE`.
_WEBP_SIDE = 16_383
# Its encoder takes some 20 bytes for a pixel, and ends the process where it does not get them.
_AVIF_PIXELS = 32_000_000


def check_output(source: Size, config: PreprocessConfig, came: SourceFormat, limits: SourceLimits) -> None:
    """Raise ImageFault `output_size` where an image of the size `source` would become larger than it may.

    The limit of pixels is that of what is read. Both the scaled image and its canvas are looked at: `contain` makes a
    large canvas of a small image.
    """
    plan = layout(source, config.resize)
    size = max(plan.image, plan.canvas, key=lambda one: one.pixels)
    if size.pixels > limits.pixels:
        raise _fault(f"would become {size}, which is {size.pixels:,} pixels; at most {limits.pixels:,} are made")
    # What is kept is WebP only if it came so.
    wrote = came if config.format == "keep" else config.format
    if wrote == "avif" and size.pixels > _AVIF_PIXELS:
        raise _fault(f"would become {size}, which is {size.pixels:,} pixels; an AVIF image may have {_AVIF_PIXELS:,}")
    if wrote == "webp" and max(plan.canvas) > _WEBP_SIDE:
        raise _fault(f"would become {plan.canvas}; a side of a WebP image has at most {_WEBP_SIDE:,} pixels")


def _fault(why: str) -> ImageFault:
    return ImageFault("output_size", why)
