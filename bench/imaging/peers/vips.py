"""libvips through pyvips, as its documentation has it: `thumbnail`, on one thread for each processor."""

from __future__ import annotations

import sys

import pyvips

from bench.imaging.peers.process import drive, in_threads
from bench.imaging.work import Work


def main() -> None:
    """Read the task from the command line and do it."""
    work = Work.from_json(sys.argv[1])
    # The same file comes many times; what was decoded once is to be decoded again.
    pyvips.cache_set_max(0)

    def one(index: int) -> None:
        path = work.files[index]
        if work.mode == "keep":
            image = pyvips.Image.new_from_file(path, access="sequential")
        else:
            crop = {"crop": "centre"} if work.mode == "cover" else {}
            image = pyvips.Image.thumbnail(path, work.width, height=work.height, **crop)
        image.write_to_file(str(work.target(index)), Q=work.quality)

    drive(work, in_threads(one))


if __name__ == "__main__":
    main()
