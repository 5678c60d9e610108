"""Makes an image as large as it is to be."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageColor

from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.picture import Picture
from libs.common.imaging.sizes import Region, Size, layout

# From this factor on, pixels are averaged before Lanczos sees them: as good to the eye, and several times as fast.
_REDUCING_GAP = 3.0


@dataclass(frozen=True, slots=True)
class ResizeStep:
    """Cuts, and scales with Lanczos' filter, as `sizes.layout` has it."""

    config: PreprocessConfig
    name = "resizing"

    def __call__(self, picture: Picture) -> Picture:
        """The picture in its new size."""
        image, source = picture.image, picture.upright
        plan = layout(source, self.config.resize)
        region = plan.region.scaled(image.width / source.width, image.height / source.height)
        if tuple(region) == (0, 0, *image.size) and plan.image == image.size:
            return picture
        scaled = _scaled(image, plan.image, region)
        return picture.changed(f"{self.config.resize.mode} {source} to {Size(*scaled.size)}", image=scaled)


def _scaled(image: Image.Image, size: Size, region: Region) -> Image.Image:
    """A region of an image in another size."""
    if image.width < size.width and size.height < image.height:
        # Pillow scales rows before columns: what lies in between would have more pixels than either image.
        lower = (image.width, size.height)
        image = image.resize(lower, Image.Resampling.LANCZOS, (0, region.top, image.width, region.bottom))
        region = Region(region.left, 0, region.right, size.height)
    return image.resize(size, Image.Resampling.LANCZOS, box=region, reducing_gap=_REDUCING_GAP)


@dataclass(frozen=True, slots=True)
class FramingStep:
    """Adds bars where the image does not fill what was asked for. By now colours are sRGB, as the background's are."""

    config: PreprocessConfig
    name = "framing"

    def __call__(self, picture: Picture) -> Picture:
        """The picture in the middle of its canvas."""
        image, canvas = picture.image, layout(picture.upright, self.config.resize).canvas
        if image.size == canvas:
            return picture
        framed = Image.new(image.mode, canvas, ImageColor.getcolor(self.config.background, image.mode))
        framed.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
        return picture.changed(f"framed to {canvas}", image=framed)
