"""How large an image becomes, and which part of it is taken: arithmetic and nothing else."""

from __future__ import annotations

from typing import NamedTuple

from libs.common.imaging.config import Resize


class Size(NamedTuple):
    """In pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.width * self.height

    @property
    def turned(self) -> Size:
        """The size after a quarter turn."""
        return Size(self.height, self.width)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


class Region(NamedTuple):
    """A part of an image: the edges in pixels, fractions included."""

    left: float
    top: float
    right: float
    bottom: float

    def scaled(self, across: float, down: float) -> Region:
        """The same part of an image that is so many times as wide and as high."""
        return Region(self.left * across, self.top * down, self.right * across, self.bottom * down)


class Layout(NamedTuple):
    """`region` of the source becomes `image`, which lies in the middle of `canvas`."""

    region: Region
    image: Size
    canvas: Size


def layout(source: Size, resize: Resize) -> Layout:
    """What `resize` makes of an image of the size `source`.

    The image is never wider or higher than asked, keeps its aspect to within a pixel unless the mode is `fill`, and is
    not enlarged unless that was asked for: where the source is too small for `fill` and `cover`, a smaller image of
    the wanted aspect comes of it; `contain` has wider bars then.
    """
    whole = Region(0, 0, source.width, source.height)
    if resize.mode == "fit":
        size = _fitted(source, _least(resize.width, resize.max_width), _least(resize.height, resize.max_height), resize)
        return Layout(whole, size, size)
    canvas = _wanted(resize)
    if resize.mode == "contain":
        return Layout(whole, _fitted(source, canvas.width, canvas.height, resize), canvas)
    if not resize.enlarge:
        canvas = _scaled(canvas, min(1.0, source.width / canvas.width, source.height / canvas.height))
    region = _covering(source, canvas, resize) if resize.mode == "cover" else whole
    return Layout(region, canvas, canvas)


def _wanted(resize: Resize) -> Size:
    assert resize.width is not None
    assert resize.height is not None
    across = 1.0 if resize.max_width is None else resize.max_width / resize.width
    down = 1.0 if resize.max_height is None else resize.max_height / resize.height
    return _scaled(Size(resize.width, resize.height), min(1.0, across, down))


def _fitted(source: Size, width: int | None, height: int | None, resize: Resize) -> Size:
    bounds = [bound / side for bound, side in ((width, source.width), (height, source.height)) if bound is not None]
    factor = min(bounds, default=1.0)
    return _scaled(source, factor if resize.enlarge else min(1.0, factor))


def _scaled(size: Size, factor: float) -> Size:
    return Size(max(1, round(size.width * factor)), max(1, round(size.height * factor)))


def _covering(source: Size, canvas: Size, resize: Resize) -> Region:
    factor = min(source.width / canvas.width, source.height / canvas.height)
    width, height = canvas.width * factor, canvas.height * factor
    left = _start(resize.focal_x, width, source.width)
    top = _start(resize.focal_y, height, source.height)
    return Region(left, top, min(left + width, source.width), min(top + height, source.height))


def _start(focal: float, length: float, whole: int) -> float:
    """Where a stretch begins that has the focal point in its middle, as far as the edges let it."""
    return max(0.0, min(focal * whole - length / 2, whole - length))


def _least(*bounds: int | None) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)
