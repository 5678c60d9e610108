"""The process that decodes: it reaches no file, no network and no other process, and has bounded memory and time.

Started by `workers`, which passes `main` its limits.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import resource
import sys
import traceback
from dataclasses import asdict, dataclass, field
from typing import BinaryIO, Literal

from PIL import Image, ImageCms

from libs.common.imaging.config import Enhance, Format, PreprocessConfig, Resize
from libs.common.imaging.decoding import load_plugins
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.frames import LENGTHS, READY, Crashed, answer_of
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.picture import Prepared
from libs.common.imaging.pipeline import Pipeline
from libs.common.isolation.confining import confine as isolate

Isolation = Literal["best_effort", "required"]
# Behind what answers callers: the machine's time is theirs first.
_NICENESS = 10
_FILES = 16
# With less room than this, no image is to blame for what fails.
_LEAST_BYTES = 64_000_000
# What Pillow decodes texts of metadata from; Python loads encodings when they are first needed.
_ENCODINGS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "cp437", "mac-roman")
_SAMPLES: dict[str, Format] = {"PNG": "webp", "JPEG": "jpeg", "WEBP": "png", "AVIF": "avif", "GIF": "png"}


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What a worker has: address space in bytes, and processor time in seconds for each image.

    `isolation`: whether it works where the kernel does not allow all protections.
    """

    memory_bytes: int = 1_500_000_000
    cpu_seconds: int = 20
    source: SourceLimits = field(default_factory=SourceLimits)
    isolation: Isolation = "best_effort"

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerLimits:
        """As `to_json` wrote it."""
        content = json.loads(text)
        return cls(**{**content, "source": SourceLimits(**content["source"])})


def confine(limits: WorkerLimits) -> dict[str, str]:
    """Give up what this process does not need. Whatever is to be loaded must be loaded by now.

    Returns why, by name, for each protection that the kernel does not allow.
    """
    os.nice(_NICENESS)
    for kind, limit in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        resource.setrlimit(kind, (limit, limit))
    return isolate()


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


def load() -> None:
    """Load all that images may need: once the process is confined, neither a module nor a profile can be opened."""
    load_plugins()
    Image.init()
    for encoding in _ENCODINGS:
        codecs.lookup(encoding)
    enhance = Enhance(sharpen=10, denoise=True, auto_contrast=True)
    resize = Resize(mode="contain", width=9, height=7)
    for name, wrote in _SAMPLES.items():
        config = PreprocessConfig(format=wrote, resize=resize, enhance=enhance)
        Pipeline(config, SourceLimits()).run(_sample(name))


def _sample(name: str) -> bytes:
    """A tiny image in a format of Pillow's, with a colour profile, so that converting is loaded too."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "#102030").save(file, name, icc_profile=profile)
    return file.getvalue()


def main(limits: str) -> None:
    """Work until nobody asks any more; `limits` as `WorkerLimits.to_json` wrote them.

    Ends at once, with a status other than 0, where protections are missing that are required.
    """
    load()
    given = WorkerLimits.from_json(limits)
    missing = confine(given)
    if missing and given.isolation == "required":
        sys.exit(1)
    bytearray(_LEAST_BYTES)
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, given)
