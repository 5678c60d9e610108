"""How an image is brought under a size: a hundred of noise, photographs and flat art."""

from __future__ import annotations

import pytest

from bench.imaging.pictures import flat, noise, opened, photo, written
from libs.common.imaging.config import Compression, PreprocessConfig, WantedFormat
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.picture import Prepared
from libs.common.imaging.pipeline import Pipeline

KINDS = {"noise": (noise, 320, 240), "photo": (photo, 480, 360), "flat": (flat, 480, 360)}
FORMATS: tuple[WantedFormat, ...] = ("jpeg", "webp", "png")


def _run(content: bytes, wanted: WantedFormat, **compression: int) -> Prepared:
    config = PreprocessConfig(format=wanted, compression=Compression(**compression))
    return Pipeline(config, SourceLimits()).run(content)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("index", range(34))
def test_the_size_is_kept(kind: str, index: int) -> None:
    make, width, height = KINDS[kind]
    limit_kb = 4 + index
    prepared = _run(written(make(width, height, index), "PNG"), FORMATS[index % 3], quality=92, max_size_kb=limit_kb)
    assert len(prepared.content) <= limit_kb * 1_000
    assert opened(prepared.content).size == prepared.size
    assert prepared.encodes <= 12


def test_quality_is_lowered_before_the_size() -> None:
    content = written(photo(640, 480), "PNG")
    plain = _run(content, "jpeg", quality=95)
    some_less = _run(content, "jpeg", quality=95, max_size_kb=len(plain.content) // 1_600)
    assert some_less.size == plain.size
    assert 40 < (some_less.quality or 0) < 95
    far_less = _run(content, "jpeg", quality=95, max_size_kb=3)
    assert (far_less.quality, far_less.size < plain.size) == (40, True)


def test_what_fits_is_written_once_at_the_quality_asked_for() -> None:
    prepared = _run(written(flat(200, 100), "PNG"), "jpeg", quality=90, max_size_kb=500)
    assert (prepared.encodes, prepared.quality) == (1, 90)


def test_the_impossible_is_refused_with_the_figures() -> None:
    with pytest.raises(
        ImageFault, match=r"cannot be kept to 1,000 bytes: at \d+x\d+ pixels it still has [\d,]+$"
    ) as raised:
        _run(written(noise(100, 80), "PNG"), "png", max_size_kb=1)
    assert raised.value.rule == "max_size_kb"
