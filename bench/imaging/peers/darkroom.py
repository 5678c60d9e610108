"""Darkroom: files through guarded workers, as the services use them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.imaging.peers.process import drive
from bench.imaging.work import Work
from libs.common.imaging.capacity import cores
from libs.common.imaging.config import Compression, PreprocessConfig, Resize
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import Workers


def config_of(work: Work) -> PreprocessConfig:
    """The same as a config of ours."""
    sides: dict[str, Any] = (
        {} if work.mode == "keep" else {"mode": work.mode, "width": work.width, "height": work.height}
    )
    return PreprocessConfig(
        format=work.format,
        resize=Resize() if work.mode == "keep" else Resize(**sides),
        compression=Compression(quality=work.quality, max_size_kb=work.max_size_kb),
    )


def main() -> None:
    """Read how many workers, if not one for each processor, and the task from the command line, and do it."""
    *options, text = sys.argv[1:]
    work = Work.from_json(text)
    config = config_of(work)
    with asyncio.Runner() as runner:
        workers = Workers(count=int(options[0]) if options else cores(), limits=WorkerLimits())

        async def one(index: int) -> None:
            content = await asyncio.to_thread(Path(work.files[index]).read_bytes)
            prepared = await workers.run(content, config)
            work.target(index).write_bytes(prepared.content)

        async def every(indexes: Iterable[int]) -> None:
            await asyncio.gather(*(one(index) for index in indexes))

        drive(work, lambda indexes: runner.run(every(indexes)))
        runner.run(workers.close())


if __name__ == "__main__":
    main()
