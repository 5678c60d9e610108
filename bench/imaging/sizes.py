"""How images of every kind are brought under a size: how near, with which quality, and by how many tries."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from PIL import Image
from rich.table import Table

from bench.imaging.pictures import flat, noise, photo, written
from libs.common.imaging.config import KILOBYTE, Compression, PreprocessConfig
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.picture import Prepared
from libs.common.imaging.pipeline import Pipeline

_KINDS: dict[str, Callable[[int, int, int], Image.Image]] = {"noise": noise, "photo": photo, "flat": flat}
_LIMITS_KB = (20, 40, 80, 160)
_FORMATS = ("jpeg", "webp")


def sizes(images: int, tell: Callable[[str], None]) -> Table:
    """A table of `images` images, a third of each kind, over four sizes and two formats."""
    shown = Table(title=f"maxSizeKB on {images} images of 960x720 at quality 92", title_justify="left")
    for heading in ("", "images", "kept to", "share of it used", "quality", "made smaller", "encodes", "at most"):
        shown.add_column(heading, justify="left" if heading == "" else "right")
    for place, (kind, make) in enumerate(_KINDS.items()):
        number = images // 3 + (place < images % 3)
        found = []
        for index in range(number):
            limit_kb = _LIMITS_KB[index % len(_LIMITS_KB)]
            config = PreprocessConfig.model_validate(
                {
                    "format": _FORMATS[index // len(_LIMITS_KB) % 2],
                    "compression": Compression(quality=92, max_size_kb=limit_kb),
                }
            )
            content = written(make(960, 720, index), "PNG")
            found.append((limit_kb * KILOBYTE, Pipeline(config, SourceLimits()).run(content)))
        tell(f"{kind}: {number} images")
        shown.add_row(kind, *_row(found))
    return shown


def _row(found: list[tuple[int, Prepared]]) -> list[str]:
    kept = [prepared for limit, prepared in found if len(prepared.content) <= limit]
    limited = [(limit, prepared) for limit, prepared in found if prepared.encodes > 1]
    used = [len(prepared.content) / limit for limit, prepared in limited]
    qualities = [prepared.quality or 0 for _, prepared in found]
    encodes = [prepared.encodes for _, prepared in found]
    smaller = sum(prepared.size != prepared.source_size for _, prepared in found)
    return [
        str(len(found)),
        str(len(kept)),
        f"{statistics.median(used):.0%}" if used else "all fit at once",
        f"{min(qualities)} to {max(qualities)}, median {statistics.median(qualities):.0f}",
        str(smaller),
        f"{statistics.mean(encodes):.1f}",
        str(max(encodes)),
    ]
