"""Makes an image look better, where somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps

from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.picture import Picture

_SHARPEN_RADIUS = 1.0
# In percent of the pixels: a few stuck ones do not hold the tones back.
_CONTRAST_CUTOFF = 0.5


@dataclass(frozen=True, slots=True)
class EnhanceStep:
    """Less noise first, then contrast, then sharpness: the other way round the noise would be sharpened."""

    config: PreprocessConfig
    name = "enhancement"

    def __call__(self, picture: Picture) -> Picture:
        """The picture, enhanced. Transparency stays as it is."""
        wanted = self.config.enhance
        if wanted.denoise:
            picture = _on_colours(picture, "denoised", lambda image: image.filter(ImageFilter.MedianFilter(3)))
        if wanted.auto_contrast:
            picture = _on_colours(picture, "stretched contrast", _contrasted)
        if wanted.sharpen:
            mask = ImageFilter.UnsharpMask(_SHARPEN_RADIUS, percent=wanted.sharpen, threshold=0)
            picture = _on_colours(picture, f"sharpened by {wanted.sharpen} %", lambda image: image.filter(mask))
        return picture


def _contrasted(image: Image.Image) -> Image.Image:
    return ImageOps.autocontrast(image, cutoff=_CONTRAST_CUTOFF, preserve_tone=True)


def _on_colours(picture: Picture, what: str, work: Callable[[Image.Image], Image.Image]) -> Picture:
    image = picture.image
    done = work(image.convert("RGB"))
    if image.mode == "RGBA":
        done.putalpha(image.getchannel("A"))
    return picture.changed(what, image=done)
