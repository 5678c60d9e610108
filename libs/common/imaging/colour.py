"""Brings colours into what every decoder shows alike: sRGB, and no transparency where the format has none."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cache

from PIL import Image, ImageCms, ImageColor

from libs.common.imaging.config import Format, PreprocessConfig
from libs.common.imaging.picture import Picture

_WRITABLE: dict[str, Format] = {"png": "png", "jpeg": "jpeg", "webp": "webp", "avif": "avif", "gif": "png"}


@dataclass(frozen=True, slots=True)
class FormatConversionStep:
    """Decides the format, and makes of the colours what it can hold: RGB, or RGBA where it knows transparency.

    Works on the resized image, which has far fewer pixels to convert.
    """

    config: PreprocessConfig
    name = "conversion"

    def __call__(self, picture: Picture) -> Picture:
        """The picture in RGB or RGBA, with the format that it will be written in."""
        source = picture.source.format
        changes: list[str] = []
        image = _to_srgb(picture.image, picture.profile, changes)
        if image.mode == "RGBA" and _is_opaque(image):
            image = image.convert("RGB")
        wrote = self._format(source, image)
        if image.mode == "RGBA" and wrote == "jpeg":
            image = self._flattened(image, changes)
        if wrote != source:
            changes.insert(0, f"{source} to {wrote}")
        return replace(picture, wrote=wrote, profile=None).changed(*changes, image=image)

    def _format(self, source: str, image: Image.Image) -> Format:
        if self.config.format != "keep":
            return self.config.format
        kept = _WRITABLE.get(source, "jpeg")
        if kept in self.config.keeps:
            return kept
        return "png" if image.mode == "RGBA" and "png" in self.config.keeps else "jpeg"

    def _flattened(self, image: Image.Image, changes: list[str]) -> Image.Image:
        changes.append(f"flattened transparency on {self.config.background}")
        ground = Image.new("RGBA", image.size, ImageColor.getrgb(self.config.background))
        return Image.alpha_composite(ground, image).convert("RGB")


def _is_opaque(image: Image.Image) -> bool:
    return image.getchannel("A").getextrema() == (255, 255)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _to_srgb(image: Image.Image, profile: bytes | None, changes: list[str]) -> Image.Image:
    """RGB or RGBA in sRGB. A profile that cannot be used counts as none: the colours are taken to be sRGB then."""
    if profile is None and image.mode in {"RGB", "RGBA"}:
        return image
    alpha = image.getchannel("A") if image.mode in {"LA", "RGBA"} else None
    colours = image if alpha is None else image.convert(image.mode[:-1])
    converted = _by_profile(colours, profile, changes) if profile else None
    if converted is None:
        if colours.mode != "RGB":
            changes.append(f"converted {colours.mode} to RGB")
        converted = colours.convert("RGB")
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def _by_profile(image: Image.Image, content: bytes, changes: list[str]) -> Image.Image | None:
    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(content))
        name = ImageCms.getProfileDescription(profile).strip()[:80]
        if name.lower().startswith("srgb") and image.mode == "RGB":
            return image.copy()
        converted = ImageCms.profileToProfile(
            image, profile, _srgb(), ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, UnicodeDecodeError):
        changes.append("ignored a colour profile that cannot be used")
        return None
    changes.append(f"converted from {name or 'its profile'} to sRGB")
    return converted
