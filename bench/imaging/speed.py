"""Images a second, memory, and how near to the best that could be had: ours beside others, in one run."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table
from skimage.metrics import structural_similarity

from bench.imaging.peers.plain import resized
from bench.imaging.work import Work, works
from bench.usage import Usage
from sandbox.plan import ROOT

_LOOK_SECONDS = 0.02
_SHARP = ROOT / ".venv" / "sharp" / "package.json"
_PEERS = ROOT / "bench" / "imaging" / "peers"


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one contender at one task. `similarity`: SSIM, 1 for the same."""

    per_second: float
    peak_bytes: int
    similarity: float
    size_bytes: int


def contenders() -> dict[str, list[str]]:
    """How each is started, by name. sharp is there where Node.js is."""
    found = {name: [sys.executable, "-m", f"bench.imaging.peers.{name}"] for name in ("darkroom", "plain", "vips")}
    found["darkroom, 1 worker"] = [*found["darkroom"], "1"]
    node = shutil.which("node")
    if node is not None and _SHARP.exists():
        found["sharp"] = [node, str(_PEERS / "sharp.mjs")]
    return found


def measure(work: Work, command: list[str]) -> Figures:
    """Have a task done once, and look at how it went and at what came of it."""
    shutil.rmtree(work.output, ignore_errors=True)
    arguments = [*command, work.to_json(), *([str(_SHARP)] if command[-1].endswith(".mjs") else [])]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        _expect(process.stdout.readline(), "ready", work)
        usage, is_over = Usage((process.pid,)), threading.Event()
        watching = threading.Thread(target=_watch, args=(usage, is_over))
        watching.start()
        began = time.perf_counter()
        process.stdin.write("go\n")
        process.stdin.flush()
        _expect(process.stdout.readline(), "done", work)
        seconds = time.perf_counter() - began
        is_over.set()
        watching.join()
    outcome = work.target(0)
    return Figures(len(work.files) / seconds, usage.peak_bytes, similarity(work), outcome.stat().st_size)


def _expect(line: str, word: str, work: Work) -> None:
    if line.strip() != word:
        raise RuntimeError(f"{work.name}: a contender said {line!r} instead of {word!r}")


def _watch(usage: Usage, is_over: threading.Event) -> None:
    while not is_over.wait(_LOOK_SECONDS):
        usage.look()


def similarity(work: Work) -> float:
    """SSIM (Wang et al., 2004) of the first outcome with a full decode that Lanczos' filter resized, unencoded."""
    with Image.open(work.files[0]) as source, Image.open(work.target(0)) as outcome:
        reference, found = resized(source.convert("RGB"), work), outcome.convert("RGB")
        if reference.size != found.size:
            reference = reference.resize(found.size, Image.Resampling.LANCZOS)
        return float(structural_similarity(np.asarray(reference), np.asarray(found), channel_axis=2))


def compare(folder: Path, scale: float, rounds: int, tell: Callable[[str], None]) -> list[Table]:
    """A table for each task: the median of some rounds, in which everybody takes turns."""
    tell("drawing the images")
    tables, started = [], contenders()
    for work in works(folder, scale):
        found: dict[str, list[Figures]] = {name: [] for name in started}
        for number in range(rounds):
            for name, command in started.items():
                tell(f"{work.name}: {name}, round {number + 1} of {rounds}")
                found[name].append(measure(work, command))
        tables.append(table(work, {name: median(figures) for name, figures in found.items()}))
    if "sharp" not in started:
        tell("sharp was not measured: it needs Node.js with npm")
    return tables


def median(figures: list[Figures]) -> Figures:
    """The median of each figure."""
    return Figures(
        statistics.median(one.per_second for one in figures),
        round(statistics.median(one.peak_bytes for one in figures)),
        statistics.median(one.similarity for one in figures),
        round(statistics.median(one.size_bytes for one in figures)),
    )


def table(work: Work, found: Mapping[str, Figures]) -> Table:
    """How everybody did, and ours as a multiple of theirs."""
    shown = Table(title=f"{work.name}, {len(work.files)} files", title_justify="left")
    for heading in ("", "images/s", "ours is", "peak MiB", "ours is", "SSIM", "KB"):
        shown.add_column(heading, justify="left" if heading == "" else "right")
    ours = found["darkroom"]
    for name, figures in found.items():
        shown.add_row(
            name,
            f"{figures.per_second:.1f}",
            f"{ours.per_second / figures.per_second:.2f} x",
            f"{figures.peak_bytes / 2**20:.0f}",
            f"{ours.peak_bytes / figures.peak_bytes:.2f} x",
            f"{figures.similarity:.4f}",
            f"{figures.size_bytes / 1_000:.0f}",
        )
    return shown
