"""Writes an image, as small as it has to be: with less quality first, then with fewer pixels."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace

from PIL import Image

from libs.common.imaging.config import KILOBYTE, Compression, Format, PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.picture import Picture
from libs.common.imaging.sizes import Size

# Aimed at this share of what is allowed, so that the next try is likely to fit.
_AIM = 0.97
# Good enough: a closer fit is not worth another encode.
_CLOSE = 0.9
_SMALLEST_SIDE = 32
_SMALLER_BY_AT_LEAST = 0.95
_LOSSLESS: set[Format] = {"png"}


@dataclass(frozen=True, slots=True)
class _Written:
    content: bytes
    quality: int
    image: Image.Image


@dataclass(frozen=True, slots=True)
class CompressionStep:
    """Writes the pixels and nothing else: no EXIF, no location, no profile, no comment goes along."""

    config: PreprocessConfig
    name = "compression"

    def __call__(self, picture: Picture) -> Picture:
        """The picture with the bytes that go. ImageFault `max_size_kb` where it cannot be made small enough."""
        assert picture.wrote is not None
        search = _Search(picture.wrote, self.config.compression)
        written = search.run(picture.image)
        has_quality = picture.wrote not in _LOSSLESS
        changes = [f"quality {written.quality}"] if has_quality else []
        if written.image.size != picture.image.size:
            changes.append(f"reduced to {Size(*written.image.size)} to keep to the size")
        return replace(
            picture,
            content=written.content,
            encodes=search.encodes,
            quality=written.quality if has_quality else None,
        ).changed(*changes, image=written.image)


class _Search:
    """For the best quality whose file is small enough; each try is chosen by what the ones before weighed."""

    def __init__(self, wrote: Format, wanted: Compression) -> None:
        self._wrote = wrote
        self._best = wanted.quality
        self._least = min(wanted.quality, wanted.min_quality)
        self._limit = None if wanted.max_size_kb is None else wanted.max_size_kb * KILOBYTE
        self.encodes = 0

    def run(self, image: Image.Image) -> _Written:
        """The image as it goes. ImageFault where nothing helps."""
        written = self._write(image, self._best)
        if self._limit is None or len(written.content) <= self._limit:
            return written
        if self._varies:
            written = self._better(self._write(image, self._least), written, self._limit)
        if len(written.content) <= self._limit:
            return written
        while len(written.content) > self._limit:
            written = self._write(_smaller(image, written, self._limit), self._least)
        if not self._varies or len(written.content) >= _CLOSE * self._limit:
            return written
        # With fewer pixels there may be room for more quality again.
        best = self._write(written.image, self._best)
        return best if len(best.content) <= self._limit else self._better(written, best, self._limit)

    @property
    def _varies(self) -> bool:
        return self._wrote not in _LOSSLESS and self._least < self._best

    def _better(self, below: _Written, above: _Written, limit: int) -> _Written:
        """The best that fits of one image, or `below`. By the secant of the logarithm of the size over the quality.

        `above` does not fit; where `below` does not either, nothing between does.
        """
        image = below.image
        while above.quality - below.quality > 1 and len(below.content) < _CLOSE * limit:
            between = self._write(image, _between(below, above, limit))
            above, below = (between, below) if len(between.content) > limit else (above, between)
        return below

    def _write(self, image: Image.Image, quality: int) -> _Written:
        self.encodes += 1
        return _Written(encode(image, self._wrote, quality), quality, image)


def _smaller(image: Image.Image, too_large: _Written, limit: int) -> Image.Image:
    before = too_large.image
    factor = min(_SMALLER_BY_AT_LEAST, math.sqrt(_AIM * limit / len(too_large.content)))
    size = Size(max(1, int(before.width * factor)), max(1, int(before.height * factor)))
    if max(size) < _SMALLEST_SIDE:
        raise ImageFault(
            "max_size_kb",
            f"cannot be kept to {limit:,} bytes: at {Size(*before.size)} pixels it still has "
            f"{len(too_large.content):,}",
        )
    return image.resize(size, Image.Resampling.LANCZOS)


def _between(below: _Written, above: _Written, limit: int) -> int:
    low, high = math.log(len(below.content)), math.log(len(above.content))
    share = (math.log(_AIM * limit) - low) / (high - low) if high > low else 0.5
    guess = round(below.quality + share * (above.quality - below.quality))
    return min(above.quality - 1, max(below.quality + 1, guess))


def encode(image: Image.Image, wrote: Format, quality: int) -> bytes:
    """The file of an RGB or RGBA image, free of metadata. ImageFault `encoding` where the format's encoder refuses."""
    try:
        return _encoded(image, wrote, quality)
    except PermissionError:
        # No encoder refuses so: it wanted what a worker is not allowed.
        raise
    except (OSError, RuntimeError, ValueError, SystemError) as error:
        what = f"cannot be written as {wrote.upper()} at {Size(*image.size)} pixels"
        raise ImageFault("encoding", f"{what}: {str(error)[:200]}") from error


def _encoded(image: Image.Image, wrote: Format, quality: int) -> bytes:
    file = io.BytesIO()
    bare = image if not image.info else _without_info(image)
    match wrote:
        case "png":
            bare.save(file, "PNG", compress_level=6)
        case "jpeg":
            bare.save(file, "JPEG", quality=quality, optimize=True)
        case "webp":
            bare.save(file, "WEBP", quality=quality, method=4)
        case "avif":
            bare.save(file, "AVIF", quality=quality, speed=8, max_threads=1)
    return file.getvalue()


def _without_info(image: Image.Image) -> Image.Image:
    """A copy without what was read beside the pixels: the writers would put it back."""
    bare = image.copy()
    bare.info = {}
    return bare
