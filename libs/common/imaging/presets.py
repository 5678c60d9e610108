"""Configs by name, for who does not want to say every number."""

from __future__ import annotations

from collections.abc import Mapping

from libs.common.imaging.config import Compression, Output, PreprocessConfig, Resize

STANDARD = "standard"
PRESETS: Mapping[str, PreprocessConfig] = {
    "fast": PreprocessConfig(
        format="jpeg",
        resize=Resize(width=512, height=512),
        compression=Compression(quality=70),
        output=Output(kind="base64"),
    ),
    STANDARD: PreprocessConfig(
        resize=Resize(width=1024, height=1024), compression=Compression(quality=85), output=Output(kind="url")
    ),
    "high": PreprocessConfig(
        format="png",
        resize=Resize(width=2048, height=2048),
        compression=Compression(quality=95),
        output=Output(kind="url"),
    ),
}
