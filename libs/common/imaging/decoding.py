"""From the bytes of a file to pixels: no more of them than are needed, the right way up, eight bits deep."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass, replace
from functools import cache

import pi_heif
from PIL import AvifImagePlugin, ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from libs.common.imaging import headers
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.outputs import check_output
from libs.common.imaging.picture import Picture
from libs.common.imaging.sizes import Size, layout

# Two pixels for one: below that the codec's own averaging shows in what the resampling makes of it.
_SPARE = 1.5
# Source: Exif 2.32, tag 0x0112.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS = {5, 6, 7, 8}
_TO_EIGHT_BITS = [round(value / 257) for value in range(65_536)]
_PALETTES = {"P": "RGBA", "PA": "RGBA", "1": "L"}
_PILLOW_NAMES = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF", "avif": "AVIF", "heic": "HEIF"}


@dataclass(frozen=True, slots=True)
class ValidationStep:
    """Looks at what the file promises, and refuses what is too much. Decodes nothing."""

    config: PreprocessConfig
    limits: headers.SourceLimits
    name = "validation"

    def __call__(self, picture: Picture) -> Picture:
        """The picture with its header. ImageFault where it is refused."""
        header = headers.read(picture.content, self.limits)
        if header.frames > 1 and self.config.animated == "refuse":
            raise ImageFault("animated", "is animated; it must be a still one")
        return replace(picture, header=header)


@dataclass(frozen=True, slots=True)
class DecodeStep:
    """Decodes. A JPEG that will be made smaller is scaled down by its own codec, which skips most of the work."""

    config: PreprocessConfig
    limits: headers.SourceLimits
    name = "decoding"

    def __call__(self, picture: Picture) -> Picture:
        """The picture with its pixels: L, LA, RGB, RGBA or CMYK. ImageFault where they cannot be had."""
        image = _opened(picture, self.limits)
        profile = image.info.get("icc_profile")
        orientation = _orientation(image)
        changes = [f"took the first of {picture.source.frames} frames"] if picture.source.frames > 1 else []
        full_size = Size(*image.size).turned if orientation in _SWAPS else Size(*image.size)
        check_output(full_size, self.config, picture.source.format, self.limits)
        changes += self._reduced(image, full_size)
        _load(image)
        image = _eight_bits(image, changes)
        if orientation in _TURNS:
            image = image.transpose(_TURNS[orientation])
            changes.append(f"turned it upright (orientation {orientation})")
        picture = replace(picture, header=_told_by_decoder(picture.source, full_size), profile=profile or None)
        return replace(picture, full_size=full_size).changed(*changes, image=image)

    def _reduced(self, image: Image.Image, full_size: Size) -> list[str]:
        size = Size(*image.size)
        plan = layout(full_size, self.config.resize)
        across = (plan.region.right - plan.region.left) / plan.image.width
        down = (plan.region.bottom - plan.region.top) / plan.image.height
        factor = max(1.0, min(across, down) / _SPARE)
        wanted = (max(1, round(size.width / factor)), max(1, round(size.height / factor)))
        if image.format != "JPEG" or image.draft(image.mode, wanted) is None or image.size == size:
            return []
        return [f"decoded at {Size(*image.size)}"]


def _told_by_decoder(header: headers.Header, size: Size) -> headers.Header:
    """Where the header names the size that was coded, which may be cut, the decoder knows better."""
    return replace(header, size=size) if header.format in {"heic", "avif"} else header


@cache
def load_plugins() -> None:
    """Load the decoders that Pillow does not bring itself, and leave all limits to `headers`."""
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    # One by default for each processor of the machine, with a stack of its own.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    # The limits of `headers` hold before these are asked, and are what callers are told of.
    Image.MAX_IMAGE_PIXELS = None
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    PngImagePlugin.MAX_TEXT_CHUNK = headers.SourceLimits().profile_bytes


def _opened(picture: Picture, limits: headers.SourceLimits) -> Image.Image:
    """The file, opened by the one decoder that its content calls for, which has its own word on the size."""
    load_plugins()
    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(picture.content), formats=[_PILLOW_NAMES[picture.source.format]])
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:
        raise _unreadable(error) from error
    if max(image.size) > limits.longest_side or Size(*image.size).pixels > limits.pixels:
        raise ImageFault("dimensions", f"is {Size(*image.size)} pixels, whatever its header says")
    return image


def _load(image: Image.Image) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, IndexError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ImageFault:
    text = str(error).lower()
    if "truncated" in text or "not enough data" in text or isinstance(error, EOFError):
        return ImageFault("truncated", "ends before its pixels do")
    return ImageFault("corrupt", f"cannot be decoded: {_words(error)}")


def _words(error: Exception) -> str:
    """What a decoder says, without the object that it says it of."""
    return str(error).partition("<")[0].strip()[:200] or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """As EXIF has it; 1 where that says nothing. HEIC and AVIF are turned by their own decoders."""
    if image.format in {"HEIF", "AVIF", "GIF"}:
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error):
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _eight_bits(image: Image.Image, changes: list[str]) -> Image.Image:
    if image.mode.startswith("I"):
        changes.append("reduced 16 bits to 8")
        return image.convert("I").point(_TO_EIGHT_BITS, "L")
    if image.mode in _PALETTES or "transparency" in image.info:
        wanted = _PALETTES.get(image.mode, "RGBA" if image.mode == "RGB" else "LA")
        changes.append(f"unfolded {image.mode} to {wanted}")
        return image.convert(wanted)
    if image.mode not in {"L", "LA", "RGB", "RGBA", "CMYK"}:
        changes.append(f"converted {image.mode} to RGBA")
        return image.convert("RGBA")
    return image
