"""Makes an image as large as it is to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from PIL import Image, ImageColor

from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.picture import Picture
from libs.common.imaging.sizes import Layout, Size, layout

# From this factor on, pixels are averaged before Lanczos sees them: as good to the eye, and several times as fast.
_REDUCING_GAP = 3.0


@dataclass(frozen=True, slots=True)
class ResizeStep:
    """Cuts, scales with Lanczos' filter, and adds bars, all as `sizes.layout` has it."""

    config: PreprocessConfig
    name = "resizing"

    def __call__(self, picture: Picture) -> Picture:
        """The picture in its new size."""
        image, source = picture.image, picture.full_size or Size(*picture.image.size)
        plan = layout(source, self.config.resize)
        region = plan.region.scaled(image.width / source.width, image.height / source.height)
        if tuple(region) == (0, 0, *image.size) and plan.image == plan.canvas == image.size:
            return picture
        scaled = image.resize(plan.image, Image.Resampling.LANCZOS, box=region, reducing_gap=_REDUCING_GAP)
        if plan.canvas != plan.image:
            scaled = self._with_bars(scaled, plan)
        return picture.changed(f"{self.config.resize.mode} {source} to {Size(*scaled.size)}", image=scaled)

    def _with_bars(self, image: Image.Image, plan: Layout) -> Image.Image:
        mode = "RGBA" if image.mode in {"LA", "RGBA"} else "RGB"
        colour = cast("tuple[int, ...]", ImageColor.getcolor(self.config.background, mode))
        canvas = Image.new(mode, plan.canvas, colour)
        canvas.paste(
            image.convert(mode),
            ((plan.canvas.width - plan.image.width) // 2, (plan.canvas.height - plan.image.height) // 2),
        )
        return canvas
