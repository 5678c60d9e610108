"""What is to be done: the same for everybody, as each of them says it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from bench.imaging.pictures import photo, written

_THUMBNAILS = 200


@dataclass(frozen=True, slots=True)
class Work:
    """A task over some files. `fit`: within width and height; `cover`: exactly that, what sticks out cut off."""

    name: str
    files: tuple[str, ...]
    output: str
    mode: Literal["fit", "cover", "keep"]
    width: int
    height: int
    format: Literal["jpeg", "webp"]
    quality: int
    max_size_kb: int | None = None

    def to_json(self) -> str:
        """As contenders read it from their command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Work:
        """As `to_json` wrote it."""
        content = json.loads(text)
        return cls(**{**content, "files": tuple(content["files"])})

    def target(self, index: int) -> Path:
        """Where the outcome of a file goes."""
        return Path(self.output) / f"{index}.{self.format}"


def works(folder: Path, scale: float) -> list[Work]:
    """The tasks, with their files written below `folder`. `scale`: how many files, 1 for as many as the report has."""
    folder.mkdir(parents=True, exist_ok=True)
    output = str(folder / "out")
    large, huge, drawn = folder / "12-megapixels.jpg", folder / "24-megapixels.jpg", folder / "3-megapixels.png"
    large.write_bytes(written(photo(4_000, 3_000), "JPEG", quality=92))
    huge.write_bytes(written(photo(6_000, 4_000, 1), "JPEG", quality=92))
    drawn.write_bytes(written(photo(2_000, 1_500, 2), "PNG"))
    small = [folder / f"small-{number}.jpg" for number in range(10)]
    for number, path in enumerate(small):
        path.write_bytes(written(photo(1_200, 900, number), "JPEG", quality=90))

    def times(path: Path, number: int) -> tuple[str, ...]:
        return (str(path),) * max(1, round(number * scale))

    thumbnails = tuple(str(small[number % 10]) for number in range(max(1, round(_THUMBNAILS * scale))))
    return [
        Work("4000x3000 JPEG, fit 1024", times(large, 40), output, "fit", 1_024, 1_024, "jpeg", 85),
        Work("2000x1500 PNG to WebP", times(drawn, 16), output, "keep", 0, 0, "webp", 85),
        Work("6000x4000 JPEG, cover 1920x1080", times(huge, 20), output, "cover", 1_920, 1_080, "jpeg", 90, 5_000),
        Work(f"{len(thumbnails)} thumbnails of 200", thumbnails, output, "fit", 200, 200, "jpeg", 80),
    ]
