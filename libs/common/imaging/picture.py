"""What goes from step to step of the pipeline, and what comes out in the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from PIL import Image

from libs.common.imaging.config import Format
from libs.common.imaging.headers import Header
from libs.common.imaging.sizes import Size

CONTENT_TYPES: dict[Format, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "avif": "image/avif",
}


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did. `changes` in words, empty where it changed nothing."""

    step: str
    seconds: float
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image on its way. A step takes one and gives another; it alters neither the pixels nor the bytes it got.

    `content` is what came until the last step writes what goes; `pixels` are there in between.
    """

    content: bytes
    header: Header | None = None
    pixels: Image.Image | None = None
    full_size: Size | None = None
    profile: bytes | None = None
    wrote: Format | None = None
    encodes: int = 0
    quality: int | None = None
    changes: tuple[str, ...] = ()
    """What the step at work has done so far."""

    @property
    def image(self) -> Image.Image:
        """The pixels, once they are decoded."""
        assert self.pixels is not None
        return self.pixels

    @property
    def source(self) -> Header:
        """What came, once it is known."""
        assert self.header is not None
        return self.header

    @property
    def upright(self) -> Size:
        """How large it is upright, in full, once it is decoded."""
        assert self.full_size is not None
        return self.full_size

    def changed(self, *what: str, image: Image.Image) -> Picture:
        """With other pixels, because of `what`."""
        return replace(self, pixels=image, changes=(*self.changes, *what))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came out: `content` in `format`, `size` in pixels.

    `encodes`: how often it was written until it was small enough. `quality`: with which it was written at last; None
    where the format has none. `source_*`: what came in.
    """

    content: bytes
    format: Format
    size: Size
    source_format: str
    source_size: Size
    source_bytes: int
    encodes: int
    quality: int | None
    steps: tuple[StepReport, ...] = field(default=())

    @property
    def content_type(self) -> str:
        """As HTTP names it."""
        return CONTENT_TYPES[self.format]
