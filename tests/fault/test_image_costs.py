"""What hostile images cost: memory of a worker, time, and the time of others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter

import pytest
from PIL import Image

from bench.imaging.hostile import jpeg_of_scans
from bench.imaging.pictures import photo, written
from libs.common.imaging.config import LONGEST_SIDE, PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import Workers

SMALL = PreprocessConfig.model_validate({"format": "jpeg", "resize": {"width": 256, "height": 256}})
_FILL = {"mode": "fill", "enlarge": True, "width": LONGEST_SIDE}
_AVIF = {"format": "avif", "compression": {"quality": 100}, "enhance": {"denoise": True, "sharpen": 100}}


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    found = Workers(count=2, limits=WorkerLimits())
    yield found
    await found.close()


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1_024


async def _rule(workers: Workers, content: bytes, config: PreprocessConfig, owner: str = "") -> str:
    try:
        await workers.run(content, config, owner)
    except ImageFault as fault:
        return fault.rule
    return "prepared"


@pytest.mark.parametrize(
    "config",
    [
        {"format": "avif", "resize": {**_FILL, "height": LONGEST_SIDE}},
        {**_AVIF, "resize": {**_FILL, "height": 3_900}},
        {"format": "png", "resize": {"mode": "contain", "width": LONGEST_SIDE, "height": LONGEST_SIDE}},
        {"format": "webp", "resize": {**_FILL, "height": 16}},
    ],
)
async def test_a_small_file_that_asks_for_a_large_image_costs_nothing(
    workers: Workers, config: dict[str, object]
) -> None:
    content = written(Image.new("RGB", (100, 100), "#336699"), "PNG")
    assert await _rule(workers, content, SMALL) == "prepared"
    (pid,) = workers.pids
    assert await _rule(workers, content, PreprocessConfig.model_validate(config)) == "output_size"
    assert workers.pids == {pid}
    assert _peak_bytes(pid) < 300_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "mode", "config"),
    [
        ((8_000, 8_000), "RGBA", {"format": "jpeg", "resize": {"width": 512, "height": 512}}),
        ((4_000, 16_000), "RGB", {"format": "jpeg", "resize": {**_FILL, "height": 3_900}}),
        ((100, 100), "RGBA", {**_AVIF, "resize": {"mode": "fill", "enlarge": True, "width": 8_000, "height": 4_000}}),
    ],
)
async def test_the_largest_images_stay_within_a_workers_memory(
    workers: Workers, size: tuple[int, int], mode: str, config: dict[str, object]
) -> None:
    content = written(Image.new(mode, size, (90, 120, 50, 200)[: len(mode)]), "PNG")
    await _rule(workers, content[:100], SMALL)
    (pid,) = workers.pids
    peak = 0

    async def watch() -> None:
        nonlocal peak
        with contextlib.suppress(OSError, IndexError):
            while True:
                peak = max(peak, _peak_bytes(pid))
                await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    # On a machine that is slow, the processor time may not suffice: the memory is bounded all the same.
    assert await _rule(workers, content, PreprocessConfig.model_validate(config)) in {"prepared", "cpu_time"}
    watching.cancel()
    assert 0 < peak < 1_000_000_000


@pytest.mark.slow
async def test_hostile_scans_of_one_owner_do_not_hold_up_another(workers: Workers) -> None:
    content = written(photo(600, 400), "JPEG")
    await asyncio.gather(*(_rule(workers, content, SMALL) for _ in range(4)))
    # As many scans as are taken, of as many pixels as are taken; and more, which are refused before they are decoded.
    largest, more = jpeg_of_scans(32, (8_000, 8_000)), jpeg_of_scans(2_000, (8_000, 8_000))
    started = perf_counter()
    hostile = [asyncio.create_task(_rule(workers, largest, SMALL, "a")) for _ in range(12)]
    assert await _rule(workers, more, SMALL, "c") == "scans"
    assert await _rule(workers, content, SMALL, "b") == "prepared"
    waited = perf_counter() - started
    done = sum(task.done() for task in hostile)
    assert done <= 6, "the other owners did not wait for all of them"
    assert await asyncio.gather(*hostile) == ["prepared"] * 12
    assert waited < 0.7 * (perf_counter() - started)
