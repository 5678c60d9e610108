"""What a provider's input images have to be, and what of it a request may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

from libs.common.imaging.config import Format, PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.sizes import Size


class Excess(NamedTuple):
    """A change that a provider's needs do not allow: the field's path, the rule and what it says."""

    field: str
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class ImageNeeds:
    """What one provider takes.

    `config` is what becomes of images where nobody asks for anything else. The rest are bounds that hold whatever is
    asked: `formats`, sides in pixels, `max_size_kb` in units of 1,000 bytes, and `widest`, the longer side over the
    shorter one.
    """

    config: PreprocessConfig
    formats: tuple[Format, ...] = get_args(Format)
    longest_side: int | None = None
    shortest_side: int = 1
    widest: float | None = None
    max_size_kb: int | None = None

    def changed(self, changes: Mapping[str, Any]) -> ImageNeeds:
        """With another config for who asks for nothing. pydantic's ValidationError where `changes` break its rules."""
        return replace(self, config=self.config.with_changes(changes)) if changes else self

    def excesses(self, changes: Mapping[str, Any]) -> Iterator[Excess]:
        """What of a request's changes goes beyond the bounds."""
        if "output" in changes:
            yield Excess("output", "fixed", "must be left out: how the provider gets images is its own business")
        wanted = changes.get("format", "keep")
        if wanted != "keep" and wanted not in self.formats:
            yield Excess("format", "one_of", f"must be keep or one of {', '.join(self.formats)} here")
        if self.longest_side is not None:
            for name in ("width", "height", "max_width", "max_height"):
                side = changes.get("resize", {}).get(name)
                if side is not None and side > self.longest_side:
                    yield Excess(f"resize.{name}", "less_than_equal", f"must be at most {self.longest_side} here")
        size_kb = changes.get("compression", {}).get("max_size_kb")
        if size_kb is not None and self.max_size_kb is not None and size_kb > self.max_size_kb:
            yield Excess("compression.max_size_kb", "less_than_equal", f"must be at most {self.max_size_kb} here")

    def held(self, config: PreprocessConfig) -> PreprocessConfig:
        """`config` as far as the bounds let it."""
        resize, compression = config.resize, config.compression
        return config.model_copy(
            update={
                "format": config.format if config.format in {"keep", *self.formats} else self.config.format,
                "keeps": self.formats,
                "output": self.config.output,
                "resize": resize.model_copy(
                    update={
                        "max_width": _least(resize.max_width, self.longest_side),
                        "max_height": _least(resize.max_height, self.longest_side),
                    }
                ),
                "compression": compression.model_copy(
                    update={"max_size_kb": _least(compression.max_size_kb, self.max_size_kb)}
                ),
            }
        )

    def check(self, size: Size) -> None:
        """Raise ImageFault where an image of that size, as it would be sent, is none that the provider takes."""
        if min(size) < self.shortest_side:
            raise ImageFault("dimensions", f"is {size} pixels; a side has to have at least {self.shortest_side} here")
        if self.widest is not None and max(size) > self.widest * min(size):
            raise ImageFault("aspect_ratio", f"is {size} pixels; at most {self.widest:g} times as long as wide here")


def _least(*bounds: int | None) -> int | None:
    return min((bound for bound in bounds if bound is not None), default=None)
