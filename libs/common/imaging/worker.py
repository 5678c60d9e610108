"""The process that decodes: it knows no secrets, may write no file, and has only so much memory and time.

Started by `workers`, as `python -m libs.common.imaging.worker LIMITS`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from dataclasses import asdict, dataclass, field
from typing import BinaryIO

from PIL import Image, ImageCms

from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.decoding import load_plugins
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.frames import LENGTHS, READY, Crashed, answer_of
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.picture import Prepared
from libs.common.imaging.pipeline import Pipeline

# Behind what answers callers: the machine's time is theirs first.
_NICENESS = 10
_FILES = 16
# With less room than this, no image is to blame for what fails.
_LEAST_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker has: address space in bytes, and of processor time in seconds for each image."""

    memory_bytes: int = 1_500_000_000
    cpu_seconds: int = 20
    source: SourceLimits = field(default_factory=SourceLimits)

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerLimits:
        """As `to_json` wrote it."""
        content = json.loads(text)
        return cls(content["memory_bytes"], content["cpu_seconds"], SourceLimits(**content["source"]))


def confine(limits: WorkerLimits) -> None:
    """Give up what this process does not need. Whatever is to be loaded must be loaded by now."""
    os.nice(_NICENESS)
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        resource.setrlimit(kind, (limit, limit))


def _grant_time(seconds: int) -> None:
    """The kernel ends this process with SIGXCPU once it has used so many seconds more."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, resource.RLIM_INFINITY))


def work(config: PreprocessConfig, content: bytes, limits: SourceLimits) -> Prepared | ImageFault | Crashed:
    """What becomes of an image, or why nothing does."""
    try:
        return Pipeline(config, limits).run(content)
    except ImageFault as fault:
        return fault
    except MemoryError:
        return ImageFault("memory", "takes more memory to decode than an image may")
    except Exception:
        return Crashed(traceback.format_exc())


def serve(requests: BinaryIO, answers: BinaryIO, limits: WorkerLimits) -> None:
    """Answer until nobody asks any more."""
    while lengths := requests.read(LENGTHS.size):
        head_bytes, content_bytes = LENGTHS.unpack(lengths)
        config = PreprocessConfig.model_validate_json(requests.read(head_bytes))
        content = requests.read(content_bytes)
        _grant_time(limits.cpu_seconds)
        answers.write(answer_of(work(config, content, limits.source)))
        answers.flush()


def _load() -> None:
    load_plugins()
    Image.init()
    ImageCms.createProfile("sRGB")


if __name__ == "__main__":
    _load()
    given = WorkerLimits.from_json(sys.argv[1])
    confine(given)
    bytearray(_LEAST_BYTES)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, given)
