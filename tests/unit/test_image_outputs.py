"""How large an image may become, and what happens where its format takes no such one."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops, ImageStat

from bench.imaging.pictures import opened, photo, quarters, written
from libs.common.imaging.compressing import encode
from libs.common.imaging.config import LONGEST_SIDE, PreprocessConfig
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.pipeline import Pipeline
from libs.common.imaging.sizes import Size

_LARGE = {"width": LONGEST_SIDE, "height": LONGEST_SIDE}


def _run(content: bytes, limits: SourceLimits | None = None, **config: object) -> Image.Image:
    pipeline = Pipeline(PreprocessConfig.model_validate(config), limits or SourceLimits())
    return opened(pipeline.run(content).content)


@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp", "avif", "keep"])
@pytest.mark.parametrize(
    "resize",
    [
        {"mode": "fill", "enlarge": True},
        {"mode": "cover", "enlarge": True},
        {"mode": "contain", "enlarge": True},
        {"mode": "contain", "enlarge": False},
        {"mode": "fit", "enlarge": True},
    ],
)
def test_whatever_makes_an_image_large_is_refused_before_the_work(wanted: str, resize: dict[str, object]) -> None:
    content = written(Image.new("RGB", (100, 100), "#336699"), "PNG")
    with pytest.raises(ImageFault) as raised:
        _run(content, format=wanted, resize={**_LARGE, **resize})
    assert raised.value.rule == "output_size"
    assert "268,435,456 pixels" in raised.value.why


@pytest.mark.parametrize("mode", ["fill", "contain", "cover"])
def test_the_limit_of_pixels_is_that_of_what_is_read(mode: str) -> None:
    content = written(quarters(), "PNG")
    limits = SourceLimits(pixels=200 * 100)
    resize = {"mode": mode, "enlarge": True, "width": 200, "height": 100}
    assert _run(content, limits, resize=resize).size == (200, 100)
    with pytest.raises(ImageFault, match="at most 20,000 are made"):
        _run(content, limits, resize={**resize, "height": 101})


@pytest.mark.parametrize(("wanted", "is_taken"), [("webp", False), ("png", True), ("jpeg", True), ("avif", True)])
def test_a_formats_own_longest_side_is_a_reason(wanted: str, is_taken: bool) -> None:
    content = written(quarters(), "PNG")
    resize = {"mode": "fill", "enlarge": True, "width": LONGEST_SIDE, "height": 16}
    if is_taken:
        assert _run(content, format=wanted, resize=resize).size == (LONGEST_SIDE, 16)
        return
    with pytest.raises(ImageFault, match="at most 16,383 pixels"):
        _run(content, format=wanted, resize=resize)


def test_avif_has_a_limit_of_its_own() -> None:
    with pytest.raises(ImageFault, match="AVIF"):
        _run(
            written(quarters(), "PNG"),
            format="avif",
            resize={"mode": "fill", "enlarge": True, "width": 8_000, "height": 4_001},
        )


@pytest.mark.parametrize(("wanted", "size"), [("webp", (16_384, 1)), ("jpeg", (65_536, 1))])
def test_what_an_encoder_refuses_is_the_images_fault(wanted: str, size: tuple[int, int]) -> None:
    with pytest.raises(ImageFault) as raised:
        encode(Image.new("RGB", size), "webp" if wanted == "webp" else "jpeg", 85)
    assert raised.value.rule == "encoding"
    assert f"cannot be written as {wanted.upper()} at {Size(*size)} pixels" in raised.value.why


def test_wider_and_lower_is_what_one_pass_would_make_of_it() -> None:
    source = photo(200, 400)
    found = _run(written(source, "PNG"), resize={"mode": "fill", "enlarge": True, "width": 300, "height": 100})
    expected = source.resize((300, 100), Image.Resampling.LANCZOS)
    assert max(ImageStat.Stat(ImageChops.difference(found, expected)).mean) < 1
