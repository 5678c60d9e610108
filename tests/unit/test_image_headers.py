"""What a file says of itself is what its decoder says of it, and limits hold before that."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from bench.imaging import hostile
from bench.imaging.pictures import opened, quarters, written
from libs.common.imaging.config import PreprocessConfig
from libs.common.imaging.decoding import load_plugins
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.headers import SourceLimits, read
from libs.common.imaging.sizes import Size
from libs.common.imaging.worker import work

LIMITS = SourceLimits()
SIDES = some.integers(1, 200)


@settings(max_examples=60)
@given(SIDES, SIDES, some.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]), some.booleans(), some.booleans())
def test_sizes_and_types_are_the_decoders_own(width: int, height: int, kind: str, alpha: bool, lossless: bool) -> None:
    image = Image.new("RGBA" if alpha and kind in {"PNG", "WEBP"} else "RGB", (width, height), (9, 99, 199))
    content = written(image, kind, **({"lossless": lossless} if kind == "WEBP" else {}))
    header = read(content, LIMITS)
    assert (header.format, header.size, header.frames) == (kind.lower(), Size(width, height), 1)


@pytest.mark.parametrize("name", list(hostile.samples()))
def test_each_sample_is_what_its_decoder_says(name: str) -> None:
    load_plugins()
    content = hostile.samples()[name]
    header = read(content, LIMITS)
    image = opened(content)
    # A coded size of whole blocks may be cut to the image's own.
    assert header.size == image.size if name != "heic" else header.size >= image.size
    assert header.frames == getattr(image, "n_frames", 1)
    assert header.format == (image.format or "").lower().replace("heif", "heic")


@given(some.binary(max_size=400), some.sampled_from(sorted(hostile.samples())), some.integers(0, 300))
def test_whatever_comes_has_a_header_or_a_reason(junk: bytes, name: str, at: int) -> None:
    content = hostile.samples()[name]
    try:
        read(content[:at] + junk + content[at + len(junk) :], LIMITS)
    except ImageFault as fault:
        assert fault.why


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"size_bytes": 100}, "size"),
        ({"longest_side": 63}, "dimensions"),
        ({"pixels": 64 * 48 - 1}, "pixels"),
        ({"profile_bytes": 100}, "profile_size"),
    ],
)
def test_limits_hold(changes: dict[str, int], rule: str) -> None:
    with pytest.raises(ImageFault) as raised:
        read(hostile.samples()["png"], replace(LIMITS, **changes))
    assert raised.value.rule == rule


def test_many_frames_are_not_counted_to_their_end() -> None:
    with pytest.raises(ImageFault) as raised:
        read(hostile.gif_of_frames(1_001), LIMITS)
    assert (raised.value.rule, read(hostile.gif_of_frames(1_000), LIMITS).frames) == ("frames", 1_000)


def test_what_is_read_does_not_depend_on_how_it_is_called() -> None:
    """Nothing but the content reaches a worker."""
    content = written(quarters(), "WEBP")
    outcome = work(PreprocessConfig(format="png"), content, LIMITS)
    assert not isinstance(outcome, Exception)
    assert (outcome.source_format, opened(outcome.content).format) == ("webp", "PNG")
    assert io.BytesIO(content).read(4) == b"RIFF"


@pytest.mark.parametrize("filling", [b"", b"\xff", b"\xff\xff\xff", b"\x00", b"\xff\xd0", b"\xff\x01"])
def test_scans_of_a_jpeg_are_counted_before_they_are_decoded(filling: bytes) -> None:
    content = hostile.jpeg_of_scans(LIMITS.scans + 1, (64, 48), filling)
    with pytest.raises(ImageFault) as raised:
        read(content, LIMITS)
    assert raised.value.rule == "scans"
    assert read(content, replace(LIMITS, scans=LIMITS.scans + 1)).size == Size(64, 48)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_what_encoders_write_has_few_scans(mode: str) -> None:
    content = written(quarters().convert(mode), "JPEG", progressive=True)
    assert read(content, replace(LIMITS, scans=18)).format == "jpeg"
    # Of a thumbnail or a second image behind the end, none is decoded.
    assert read(content + hostile.jpeg_of_scans(100, (64, 48)), LIMITS).format == "jpeg"
