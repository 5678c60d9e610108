"""Whatever is sent as an image ends one worker at the most, and is told with its reason."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import psutil
import pytest

from bench.imaging import hostile
from bench.imaging.pictures import noise, opened, photo, png_of_zeros, quarters, written
from libs.common import metrics
from libs.common.errors import ErrorCode, GenerationError
from libs.common.imaging.config import PreprocessConfig, Resize
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import Workers
from tests.support.waiting import eventually

CONFIG = PreprocessConfig(format="jpeg", resize=Resize(width=256, height=256), animated="first_frame")
LIMITS = WorkerLimits()


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    found = Workers(count=2, limits=LIMITS)
    yield found
    await found.close()


async def _outcome(workers: Workers, content: bytes, config: PreprocessConfig = CONFIG) -> str:
    """`prepared`, or the rule that it breaks. Anything else is a fault of ours, and comes through."""
    try:
        prepared = await workers.run(content, config)
    except GenerationError as error:
        assert error.is_retryable, error
        return error.code.value
    except ImageFault as fault:
        assert str(fault).startswith("The image "), fault
        return fault.rule
    assert opened(prepared.content).size == prepared.size
    return "prepared"


async def _outcomes(workers: Workers, files: Iterable[tuple[str, bytes]]) -> Counter[str]:
    return Counter(await asyncio.gather(*(_outcome(workers, content) for _, content in files)))


def _deaths() -> float:
    (family,) = metrics.IMAGE_WORKER_DEATHS.collect()
    return float(sum(sample.value for sample in family.samples if sample.name.endswith("_total")))


@pytest.mark.parametrize("name", hostile.BOMBS)
async def test_a_bomb_is_refused_before_it_goes_off(workers: Workers, name: str) -> None:
    make, rule = hostile.BOMBS[name]
    content = make()
    await workers.run(written(quarters(), "PNG"), CONFIG)
    before = workers.pids
    assert len(content) < 10_000_000
    assert await _outcome(workers, content) == rule
    assert workers.pids == before, "no worker had to die for it"


@pytest.mark.parametrize("name", list(hostile.not_images()))
async def test_what_is_no_image_is_told_so(workers: Workers, name: str) -> None:
    with pytest.raises(ImageFault) as raised:
        await workers.run(hostile.not_images()[name], CONFIG)
    assert raised.value.rule == "not_an_image"
    assert ("SVG" in raised.value.why) == name.startswith("svg") or "is not PNG" in raised.value.why


@pytest.mark.parametrize("name", list(hostile.polyglots()))
@pytest.mark.parametrize("wanted", ["keep", "jpeg", "png", "webp"])
async def test_nothing_but_pixels_comes_out_of_a_polyglot(workers: Workers, name: str, wanted: str) -> None:
    config = PreprocessConfig.model_validate({"format": wanted})
    prepared = await workers.run(hostile.polyglots()[name], config)
    assert prepared.size == (64, 48)
    assert hostile.PAYLOAD not in prepared.content
    assert b"PK\x03\x04" not in prepared.content


@pytest.mark.slow
async def test_files_cut_off_anywhere_are_told_so(workers: Workers) -> None:
    outcomes = await _outcomes(workers, hostile.truncations())
    assert outcomes.total() > 250
    assert set(outcomes) <= {"truncated", "corrupt", "not_an_image", "prepared"}
    # An animation whose second frame is cut off has its first one all the same.
    animated = await _outcomes(workers, [file for file in hostile.truncations() if file[0] == "gif animated"])
    assert 0 < outcomes["prepared"] == animated["prepared"]
    assert outcomes["truncated"] > 0.8 * (outcomes.total() - outcomes["prepared"])


@pytest.mark.slow
async def test_flipped_bits_end_in_pixels_or_in_a_reason(workers: Workers) -> None:
    before = await _outcomes(workers, hostile.samples().items())
    assert before == {"prepared": len(hostile.samples())}
    deaths = _deaths()
    outcomes = await _outcomes(workers, hostile.flips(seed=7, number=10_000))
    assert outcomes.total() == 10_000
    assert outcomes["prepared"] > 1_000
    assert not {"memory", "cpu_time", "decoder_crashed"} & set(outcomes)
    assert _deaths() == deaths, "no worker had to die for any of them"


async def test_one_that_needs_too_much_memory_is_refused_and_the_worker_goes_on() -> None:
    workers = Workers(count=1, limits=replace(LIMITS, memory_bytes=400_000_000))
    await workers.run(written(quarters(), "PNG"), CONFIG)
    pids = workers.pids
    wide = PreprocessConfig(format="webp")
    assert await _outcome(workers, png_of_zeros(8_000, 8_000), wide) == "memory"
    assert await _outcome(workers, written(quarters(), "PNG")) == "prepared"
    assert workers.pids == pids
    await workers.close()


@pytest.mark.slow
async def test_the_largest_that_is_taken_fits_into_a_workers_memory(workers: Workers) -> None:
    content = png_of_zeros(8_000, 8_000)
    configs = [PreprocessConfig.model_validate({"format": wanted}) for wanted in ("webp", "jpeg", "png")]
    outcomes = await asyncio.gather(*(_outcome(workers, content, config) for config in configs))
    assert outcomes == ["prepared"] * 3


@pytest.mark.slow
async def test_one_that_takes_too_long_ends_its_worker_and_no_other() -> None:
    workers = Workers(count=2, limits=replace(LIMITS, cpu_seconds=1))
    slow = PreprocessConfig(format="avif", resize=Resize(width=5_600, height=5_600))
    outcomes = await asyncio.gather(
        _outcome(workers, png_of_zeros(7_900, 7_900), slow),
        *(_outcome(workers, written(quarters(), "PNG")) for _ in range(20)),
    )
    assert outcomes == ["cpu_time", *["prepared"] * 20]
    assert await _outcome(workers, written(quarters(), "PNG")) == "prepared"
    await workers.close()


@pytest.mark.parametrize(
    ("deaths", "how", "expected"),
    [
        (1, signal.SIGSEGV, "prepared"),
        (2, signal.SIGSEGV, "decoder_crashed"),
        (2, signal.SIGKILL, "SERVICE_UNAVAILABLE"),
    ],
)
async def test_an_image_that_a_worker_dies_over_gets_another_one_once(
    deaths: int, how: signal.Signals, expected: str
) -> None:
    workers = Workers(count=1, limits=LIMITS)
    killed: set[int] = set()

    async def kill() -> None:
        for _ in range(deaths):
            await _until_busy(workers, killed)
            (pid,) = workers.pids - killed
            killed.add(pid)
            os.kill(pid, how)

    content = written(noise(1_200, 900), "JPEG")
    outcome, _ = await asyncio.gather(_outcome(workers, content, PreprocessConfig(format="avif")), kill())
    assert outcome == expected
    assert await _outcome(workers, written(quarters(), "PNG")) == "prepared"
    await workers.close()


async def _until_busy(workers: Workers, but: set[int]) -> None:
    """Wait until a worker that is none of `but` is at work on its image."""

    async def is_busy() -> bool:
        return bool(workers.busy_pids - but)

    await eventually(is_busy, within=20, what="a worker is busy")


async def _has_ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_whoever_gives_up_takes_the_worker_with_them(workers: Workers) -> None:
    content = written(noise(1_200, 900), "JPEG")
    giving_up = asyncio.create_task(workers.run(content, PreprocessConfig(format="avif")))
    await _until_busy(workers, set())
    (pid,) = workers.pids
    giving_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await giving_up
    assert not psutil.pid_exists(pid)
    assert await _outcome(workers, written(quarters(), "PNG")) == "prepared"


async def test_a_worker_knows_no_secrets_and_can_write_no_file(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DARKROOM_KEY_SECRET", "what nobody else may know")
    await workers.run(written(quarters(), "PNG"), CONFIG)
    (pid,) = workers.pids
    process = psutil.Process(pid)
    assert process.environ() == {"LC_ALL": "C.UTF-8"}
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_AS) == (LIMITS.memory_bytes,) * 2
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)


async def test_workers_end_with_whoever_started_them() -> None:
    program = """
import asyncio
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.worker import WorkerLimits
from libs.common.imaging.workers import Workers
from bench.imaging.pictures import quarters, written
async def main():
    workers = Workers(count=1, limits=WorkerLimits())
    await workers.run(written(quarters(), "PNG"), PreprocessConfig())
    print(*workers.pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(await asyncio.to_thread(parent.stdout.readline))
    assert psutil.pid_exists(pid)
    parent.kill()
    await asyncio.to_thread(parent.wait)
    parent.stdout.close()
    await eventually(lambda: _has_ended(pid), within=20, what="the worker has ended")


async def test_workers_that_died_while_they_had_nothing_to_do_are_not_used(workers: Workers) -> None:
    content = written(photo(600, 400), "JPEG")
    await asyncio.gather(*(workers.run(content, CONFIG) for _ in range(8)))
    idle = workers.pids
    assert len(idle) == 2
    for pid in idle:
        os.kill(pid, signal.SIGKILL)

    async def are_gone() -> bool:
        return not any(psutil.pid_exists(pid) for pid in idle)

    await eventually(are_gone, within=20, what="the workers are gone")
    assert await _outcome(workers, content) == "prepared"
    assert not idle & workers.pids


async def test_a_worker_that_cannot_start_is_no_images_fault() -> None:
    workers = Workers(count=1, limits=replace(LIMITS, memory_bytes=1_000_000))
    for _ in range(2):
        with pytest.raises(GenerationError) as raised:
            await workers.run(written(quarters(), "PNG"), CONFIG)
        assert (raised.value.code, raised.value.is_retryable) == (ErrorCode.SERVICE_UNAVAILABLE, True)
    assert workers.pids == frozenset()
    await workers.close()


async def test_workers_grow_with_what_is_to_be_done_and_no_further() -> None:
    workers = Workers(count=3, limits=LIMITS)
    assert workers.pids == set(), "none are started before they are needed"
    content = written(photo(600, 400), "JPEG")
    await asyncio.gather(*(workers.run(content, CONFIG) for _ in range(30)))
    assert len(workers.pids) == 3
    await workers.close()


@pytest.mark.slow
async def test_one_owner_leaves_a_worker_for_others() -> None:
    workers = Workers(count=2, limits=LIMITS)
    heavy = written(photo(3_000, 2_000), "PNG")
    of_one = [asyncio.create_task(workers.run(heavy, PreprocessConfig(format="avif"), "one")) for _ in range(4)]
    await asyncio.sleep(0)
    await workers.run(written(quarters(), "PNG"), CONFIG, "two")
    assert not any(task.done() for task in of_one)
    for task in of_one:
        task.cancel()
    await asyncio.gather(*of_one, return_exceptions=True)
    await workers.close()
