"""Pillow as its tutorial has it: decode all of it, resize with Lanczos, save; on one thread for each processor."""

from __future__ import annotations

import sys

from PIL import Image, ImageOps

from bench.imaging.peers.process import drive, in_threads
from bench.imaging.work import Work


def main() -> None:
    """Read the task from the command line and do it."""
    work = Work.from_json(sys.argv[1])

    def one(index: int) -> None:
        with Image.open(work.files[index]) as opened:
            resized(opened.convert("RGB"), work).save(work.target(index), quality=work.quality)

    drive(work, in_threads(one))


def resized(image: Image.Image, work: Work) -> Image.Image:
    """An image in full, as large as the task wants it."""
    size = (work.width, work.height)
    if work.mode == "keep":
        return image
    if work.mode == "cover":
        return ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return ImageOps.contain(image, size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
