"""What becomes of images of every mode, depth, orientation, profile and transparency, looked at pixel by pixel."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

import pillow_heif
import pytest
from PIL import ExifTags, Image

from bench.imaging.pictures import CORNERS, opened, photo, pixel, png_of_16_bits, profile, quarters, written
from libs.common.imaging.config import Compression, Enhance, PreprocessConfig, Resize
from libs.common.imaging.faults import ImageFault
from libs.common.imaging.headers import SourceLimits
from libs.common.imaging.picture import Prepared
from libs.common.imaging.pipeline import Pipeline

SECRET = b"51.4778N 0.0015W"
# Orientation: where each quarter is seen, read from the top left by rows. Source: Exif 2.32, tag 0x0112.
TURNED = {
    1: (0, 1, 2, 3),
    2: (1, 0, 3, 2),
    3: (3, 2, 1, 0),
    4: (2, 3, 0, 1),
    5: (0, 2, 1, 3),
    6: (2, 0, 3, 1),
    7: (3, 1, 2, 0),
    8: (1, 3, 0, 2),
}


def run(content: bytes, **config: Any) -> Prepared:
    return Pipeline(PreprocessConfig(**config), SourceLimits()).run(content)


def _centres(image: Image.Image) -> list[tuple[int, ...]]:
    across, down = (image.width // 4, image.width * 3 // 4), (image.height // 4, image.height * 3 // 4)
    return [pixel(image, x, y) for y, x in itertools.product(down, across)]


def _lightest(prepared: Prepared) -> int:
    return max(level for level, pixels in enumerate(opened(prepared.content).convert("L").histogram()) if pixels)


def _alike(found: tuple[int, ...], wanted: tuple[int, ...], within: int = 6) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))


def _grey(colour: tuple[int, ...]) -> tuple[int, int, int]:
    value = round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])
    return (value, value, value)


def _corpus() -> list[Any]:
    return list(_cases())


def _cases() -> Iterator[Any]:
    """File, the quarters that should be seen."""
    grey = [_grey(colour) for colour in CORNERS]
    seen = {"RGB": CORNERS, "L": grey, "P": CORNERS, "CMYK": CORNERS, "RGBA": CORNERS, "LA": grey, "1": None}
    for kind, modes in {
        "PNG": ("RGB", "L", "P", "RGBA", "LA"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "GIF": ("P", "L"),
        "AVIF": ("RGB", "RGBA"),
    }.items():
        for mode in modes:
            image = quarters(mode=mode)
            options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind in {"JPEG", "AVIF"} else {}
            yield pytest.param(written(image, kind, **options), seen[mode], id=f"{kind} {mode}")


@pytest.mark.parametrize(("content", "colours"), _corpus())
@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp", "avif"])
def test_colours_survive_whatever_the_mode(content: bytes, colours: list[Any], wanted: str) -> None:
    prepared = run(content, format=wanted, compression=Compression(quality=95))
    image = opened(prepared.content)
    assert (prepared.format, prepared.size, image.mode) == (wanted, (64, 48), "RGB")
    assert image.format == wanted.upper()
    for found, colour in zip(_centres(image), colours, strict=True):
        assert _alike(found, colour, 14 if wanted == "avif" else 8)


@pytest.mark.parametrize("orientation", list(TURNED))
@pytest.mark.parametrize("resize", [Resize(), Resize(width=400, height=400), Resize(width=32)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied(orientation: int, resize: Resize, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    prepared = run(written(quarters(1600, 1200), kind, exif=exif, **options), format="png", resize=resize)
    image = opened(prepared.content)
    assert (image.width > image.height) == (orientation < 5)
    for found, index in zip(_centres(image), TURNED[orientation], strict=True):
        assert _alike(found, CORNERS[index])


def test_cover_cuts_the_upright_image() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = written(quarters(1600, 1200), "JPEG", exif=exif, quality=95)
    # Upright it is 1200 x 1600 with quarter 2 at the top left; the upper half of it is 2 beside 0.
    prepared = run(content, format="png", resize=Resize(mode="cover", width=300, height=200, focal_y=0))
    image = opened(prepared.content)
    assert _alike(pixel(image, 75, 100), CORNERS[2])
    assert _alike(pixel(image, 225, 100), CORNERS[0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("wanted", ["keep", "png", "jpeg", "webp", "avif"])
def test_no_metadata_goes_along(kind: str, wanted: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = SECRET.decode()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    options = {"xmp": b"<x:xmpmeta>" + SECRET + b"</x:xmpmeta>", "icc_profile": profile("sRGB"), "exif": exif}
    content = written(quarters(), kind, **options) + SECRET
    assert SECRET in content
    prepared = run(content, format=wanted)
    image = opened(prepared.content)
    assert SECRET not in prepared.content
    assert not {"exif", "xmp", "icc_profile", "comment"} & set(image.info)
    assert not dict(image.getexif())


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), *itertools.product(("PNG", "WEBP", "AVIF"), ("RGB", "RGBA"))],
)
def test_a_profile_is_converted_to_srgb(kind: str, mode: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    content = written(quarters(mode=mode, alpha=128), kind, icc_profile=profile("swapped"), **options)
    image = opened(run(content, format="png").content)
    for found, colour in zip(_centres(image), CORNERS, strict=True):
        # What the file calls red is green by its profile.
        assert (found[0] > found[1]) == (colour[1] > colour[0])
    assert image.mode == mode


# A profile holds the time at which it was made: workers of pytest would know the test by different names.
@pytest.mark.parametrize(
    "broken",
    [b"", b"no profile", profile("swapped")[:200], bytes(3_000)],
    ids=["empty", "text", "cut off", "zeros"],
)
def test_a_profile_that_cannot_be_used_counts_as_none(broken: bytes) -> None:
    prepared = run(written(quarters(), "PNG", icc_profile=broken), format="png")
    assert [_alike(a, b) for a, b in zip(_centres(opened(prepared.content)), CORNERS, strict=True)] == [True] * 4


def test_sixteen_bits_become_eight() -> None:
    levels = [0, 257 * 64, 257 * 128, 257 * 255]
    image = opened(run(png_of_16_bits([levels] * 4), format="png").content)
    assert [pixel(image, x, 1) for x in range(4)] == [(value,) * 3 for value in (0, 64, 128, 255)]


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "AVIF")])
@pytest.mark.parametrize("background", ["#ffffff", "#000000", "#0000ff"])
def test_transparency_is_flattened_where_the_format_has_none(mode: str, kind: str, background: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    content = written(quarters(mode=mode, alpha=128), kind, **options)
    image = opened(run(content, format="jpeg", background=background, compression=Compression(quality=98)).content)
    ground = tuple(int(background[at : at + 2], 16) for at in (1, 3, 5))
    for found, colour in zip(_centres(image), CORNERS, strict=True):
        source = colour if mode == "RGBA" else _grey(colour)
        mixed = tuple(round(128 / 255 * a + 127 / 255 * b) for a, b in zip(source, ground, strict=True))
        assert _alike(found, mixed, 10)


@pytest.mark.parametrize("wanted", ["png", "webp", "avif"])
def test_transparency_is_kept_where_the_format_has_it(wanted: str) -> None:
    image = opened(run(written(quarters(mode="RGBA", alpha=100), "PNG"), format=wanted).content)
    assert image.mode == "RGBA"
    assert all(_alike((found[3],), (100,)) for found in _centres(image))


def test_a_transparent_colour_of_a_palette_is_transparency() -> None:
    palette = quarters(mode="P")
    index = palette.getpixel((2, 2))
    image = opened(run(written(palette, "PNG", transparency=index), format="png").content)
    assert [found[3] for found in _centres(image)] == [0, 255, 255, 255]


def test_edges_of_transparent_parts_do_not_bleed_when_resized() -> None:
    image = Image.new("RGBA", (200, 200), (255, 255, 255, 0))
    image.paste((200, 0, 0, 255), (0, 0, 101, 200))
    small = opened(run(written(image, "PNG"), resize=Resize(width=40)).content)
    seen = [pixel(small, x, 20) for x in range(40)]
    assert all(found[1] <= 1 for found in seen if found[3] > 8)


@pytest.mark.parametrize(
    ("kind", "options", "wanted", "written_as"),
    [
        ("GIF", {}, "keep", "png"),
        ("PNG", {}, "keep", "png"),
        ("JPEG", {}, "keep", "jpeg"),
        ("WEBP", {}, "keep", "webp"),
        ("AVIF", {}, "keep", "avif"),
    ],
)
def test_keep_keeps_or_takes_the_nearest(kind: str, options: dict[str, Any], wanted: str, written_as: str) -> None:
    assert run(written(quarters(), kind, **options), format=wanted).format == written_as


@pytest.mark.parametrize(("mode", "expected"), [("RGB", "jpeg"), ("RGBA", "png")])
def test_what_keep_may_not_keep_becomes_what_it_may(mode: str, expected: str) -> None:
    content = written(quarters(mode=mode, alpha=9), "WEBP")
    assert run(content, format="keep", keeps=("jpeg", "png")).format == expected


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_phones_heic_is_taken(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    heif = pillow_heif.from_pillow(quarters(640, 480))
    file = io.BytesIO()
    heif.save(file, quality=90, exif=exif.tobytes())
    prepared = run(file.getvalue(), format="png", resize=Resize(width=320, height=320))
    assert prepared.source_format == "heic"
    for found, index in zip(_centres(opened(prepared.content)), TURNED[orientation], strict=True):
        assert _alike(found, CORNERS[index], 12)


def _animation(kind: str) -> bytes:
    frames = [quarters(), quarters(mode="L").convert("RGB"), Image.new("RGB", (64, 48))]
    return written(frames[0], kind, save_all=True, append_images=frames[1:], duration=100, loop=0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_animations_are_refused_or_give_their_first_frame(kind: str) -> None:
    with pytest.raises(ImageFault, match="animated") as raised:
        run(_animation(kind))
    assert raised.value.rule == "animated"
    image = opened(run(_animation(kind), animated="first_frame", format="png").content)
    assert getattr(image, "n_frames", 1) == 1
    for found, colour in zip(_centres(image), CORNERS, strict=True):
        assert _alike(found, colour, 14)


def test_a_large_jpeg_is_not_decoded_in_full() -> None:
    content = written(photo(4000, 3000), "JPEG", quality=85)
    prepared = run(content, resize=Resize(width=1024, height=1024))
    assert (prepared.size, prepared.source_size) == ((1024, 768), (4000, 3000))
    decoding = next(report for report in prepared.steps if report.step == "decoding")
    assert decoding.changes == ("decoded at 2000x1500",)


def test_contain_has_bars_of_the_background() -> None:
    resize = Resize(mode="contain", width=100, height=100)
    image = opened(run(written(quarters(200, 100), "PNG"), resize=resize, background="#102030").content)
    assert (image.size, pixel(image, 50, 5), pixel(image, 50, 95)) == ((100, 100), (16, 32, 48), (16, 32, 48))
    assert _alike(pixel(image, 25, 40), CORNERS[0])


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("RGBA", "PNG")])
def test_bars_are_not_converted_by_the_images_profile(mode: str, kind: str) -> None:
    content = written(quarters(200, 100, mode=mode, alpha=128), kind, icc_profile=profile("swapped"))
    resize = Resize(mode="contain", width=100, height=100)
    image = opened(run(content, format="png", resize=resize, background="#c02030").content)
    assert pixel(image, 50, 5)[:3] == pixel(image, 50, 95)[:3] == (192, 32, 48)
    # Red by its own numbers, green by its profile, as without bars.
    bare = opened(run(content, format="png", resize=Resize(width=100)).content)
    assert _alike(pixel(image, 25, 35), pixel(bare, 25, 10), 2)
    assert pixel(image, 25, 35)[1] > pixel(image, 25, 35)[0]


def test_enhancements_do_what_they_say() -> None:
    pale = photo(200, 150).point(lambda value: 90 + value // 4)
    low, high = run(written(pale, "PNG"), enhance=Enhance(auto_contrast=True)), run(written(pale, "PNG"))
    assert _lightest(low) > _lightest(high) + 60
    spotted = Image.new("RGB", (40, 40), (90, 90, 90))
    spotted.putpixel((20, 20), (255, 255, 255))
    clean = opened(run(written(spotted, "PNG"), enhance=Enhance(denoise=True)).content)
    assert clean.getextrema() == ((90, 90),) * 3
    edge = Image.new("RGB", (40, 40), (80, 80, 80))
    edge.paste((160, 160, 160), (20, 0, 40, 40))
    sharp = opened(run(written(edge, "PNG"), enhance=Enhance(sharpen=150)).content)
    assert (pixel(sharp, 5, 5), pixel(sharp, 35, 5)) == ((80, 80, 80), (160, 160, 160))
    assert pixel(sharp, 19, 5) < (80, 80, 80)
    assert pixel(sharp, 20, 5) > (160, 160, 160)


def test_the_report_says_what_each_step_did() -> None:
    content = written(quarters(1600, 1200, mode="RGBA", alpha=90), "PNG")
    prepared = run(content, format="jpeg", resize=Resize(width=800), enhance=Enhance(sharpen=50))
    said = {report.step: report.changes for report in prepared.steps}
    assert list(said) == ["validation", "decoding", "resizing", "conversion", "enhancement", "framing", "compression"]
    assert said["resizing"] == ("fit 1600x1200 to 800x600",)
    assert said["conversion"] == ("png to jpeg", "flattened transparency on #ffffff")
    assert said["enhancement"] == ("sharpened by 50 %",)
    assert said["compression"] == ("quality 85",)
    assert all(report.seconds >= 0 for report in prepared.steps)


def test_the_same_image_gives_the_same_bytes() -> None:
    content = written(photo(300, 200), "JPEG")
    config = {"resize": Resize(width=100), "compression": Compression(max_size_kb=5)}
    assert run(content, **config).content == run(content, **config).content
