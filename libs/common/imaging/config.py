"""What is to become of an image, as callers, the catalog and adapters say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Format = Literal["png", "jpeg", "webp", "avif"]
WantedFormat = Literal["keep", "png", "jpeg", "webp", "avif"]
ResizeMode = Literal["fit", "fill", "cover", "contain"]
OutputKind = Literal["base64", "url", "buffer"]

LONGEST_SIDE = 16_384
"""In pixels: the longest side that is read, and that may be asked for."""
KILOBYTE = 1_000
DAY_SECONDS = 86_400

Side = Annotated[int, Field(ge=1, le=LONGEST_SIDE, description="In pixels.")]
Colour = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Resize(_Part):
    """How large it becomes. Without any side it stays as large as it is."""

    mode: ResizeMode = Field(
        default="fit",
        description="fit: within width x height, nothing cut off. fill: exactly that, distorted. cover: exactly that, "
        "what sticks out cut off. contain: within that, with bars in the background's colour.",
    )
    width: Side | None = None
    height: Side | None = None
    max_width: Side | None = Field(default=None, description="In pixels: never wider, whatever else is asked.")
    max_height: Side | None = Field(default=None, description="In pixels: never higher, whatever else is asked.")
    enlarge: bool = Field(default=False, description="Whether a smaller image may be made larger.")
    focal_x: float = Field(default=0.5, ge=0, le=1, description="For cover: what stays in view, 0 is the left edge.")
    focal_y: float = Field(default=0.5, ge=0, le=1, description="For cover: what stays in view, 0 is the top edge.")

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.mode != "fit" and (self.width is None or self.height is None):
            raise ValueError(f"mode {self.mode} needs both width and height")
        return self


class Compression(_Part):
    """How it is written. PNG is lossless: there the quality says nothing."""

    quality: int = Field(default=85, ge=1, le=100)
    min_quality: int = Field(
        default=40, ge=1, le=100, description="How far the quality may be lowered to keep to max_size_kb."
    )
    max_size_kb: int | None = Field(
        default=None, ge=1, le=100_000, description="In units of 1,000 bytes. Quality is lowered first, then the size."
    )


class Enhance(_Part):
    """What is done to how it looks."""

    sharpen: int = Field(default=0, ge=0, le=500, description="Strength of an unsharp mask, in percent.")
    denoise: bool = Field(default=False, description="A median of 3 x 3 pixels.")
    auto_contrast: bool = Field(default=False, description="Stretch the darkest and the lightest tones.")


class Output(_Part):
    """How it is handed over."""

    kind: OutputKind = "buffer"
    upload_to_s3: bool = Field(default=False, description="Keep it in object storage too; `url` does so anyway.")
    expires_in_seconds: int = Field(
        default=DAY_SECONDS, ge=DAY_SECONDS, le=7 * DAY_SECONDS, description="So long it is kept and its URL works."
    )

    @property
    def is_uploaded(self) -> bool:
        """Whether it goes into object storage."""
        return self.upload_to_s3 or self.kind == "url"


class PreprocessConfig(_Part):
    """All of it, defaults applied."""

    format: WantedFormat = Field(default="keep", description="keep: what came, or the nearest that can be written.")
    keeps: tuple[Format, ...] = Field(
        default=get_args(Format), description="What `keep` keeps; the rest becomes PNG if transparent, else JPEG."
    )
    resize: Resize = Resize()
    compression: Compression = Compression()
    enhance: Enhance = Enhance()
    output: Output = Output()
    animated: Literal["refuse", "first_frame"] = Field(default="refuse", description="What to do with animations.")
    background: Colour = Field(default="#ffffff", description="Behind what is transparent, where the format has none.")

    @classmethod
    def fitting(cls, side: int, *, quality: int, kind: OutputKind) -> Self:
        """Within `side` pixels either way, in the format that came."""
        return cls(
            resize=Resize(width=side, height=side), compression=Compression(quality=quality), output=Output(kind=kind)
        )

    def with_changes(self, changes: Mapping[str, Any]) -> PreprocessConfig:
        """This config where `changes`, which has some of its fields, says nothing else.

        Raises pydantic's ValidationError where the outcome breaks a rule.
        """
        return PreprocessConfig.model_validate(_merged(self.model_dump(), changes))

    @property
    def pixels_key(self) -> str:
        """What two configs share that make the same bytes of the same image: all but how they are handed over."""
        return self.model_dump_json(exclude={"output"})


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        inner = base.get(name)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(inner, value)
        else:
            merged[name] = value
    return merged
