"""The steps in their order, built from a config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Protocol

from libs.common.imaging.colour import FormatConversionStep
from libs.common.imaging.compressing import CompressionStep
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.decoding import DecodeStep, ValidationStep
from libs.common.imaging.enhancing import EnhanceStep
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.picture import Picture, Prepared, StepReport
from libs.common.imaging.resizing import FramingStep, ResizeStep
from libs.common.imaging.sizes import Size


class Step(Protocol):
    """One thing that is done to a picture. The same picture always gives the same picture."""

    @property
    def name(self) -> str:
        """How reports call it."""

    @property
    def __call__(self) -> Callable[[Picture], Picture]:
        """Do it. ImageFault where it cannot be done."""


class Pipeline:
    """What a config makes of images.

    Args:
        config: what is to become of them.
        limits: what is read at all.
    """

    def __init__(self, config: PreprocessConfig, limits: SourceLimits) -> None:
        self.steps: tuple[Step, ...] = (
            ValidationStep(config, limits),
            DecodeStep(config, limits),
            ResizeStep(config),
            FormatConversionStep(config),
            EnhanceStep(config),
            FramingStep(config),
            CompressionStep(config),
        )

    def run(self, content: bytes) -> Prepared:
        """What becomes of an image file. ImageFault where it is refused."""
        picture, reports = Picture(content), []
        for step in self.steps:
            started = perf_counter()
            picture = step(replace(picture, changes=()))
            reports.append(StepReport(step.name, perf_counter() - started, picture.changes))
        return _prepared(content, picture, tuple(reports))


def _prepared(content: bytes, picture: Picture, reports: tuple[StepReport, ...]) -> Prepared:
    assert picture.wrote is not None
    return Prepared(
        content=picture.content,
        format=picture.wrote,
        size=Size(*picture.image.size),
        source_format=picture.source.format,
        source_size=picture.source.size,
        source_bytes=len(content),
        encodes=picture.encodes,
        quality=picture.quality,
        steps=reports,
    )
