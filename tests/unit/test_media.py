"""What a file is, by its first bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from libs.common.errors import GenerationError
from libs.common.storage.download import from_bytes
from libs.common.storage.media import is_svg, is_text, kind_of

VIDEO_BRANDS = (
    *("iso2", "iso3", "iso4", "iso5", "iso6", "iso7", "iso8", "iso9", "isom"),
    *("dash", "msdh", "msix", "cmfc", "mp41", "mp42", "avc1", "M4V"),
)


def _box(major: str, *compatible: str) -> bytes:
    brands = "".join(f"{brand:4}" for brand in compatible).encode()
    return (16 + len(brands)).to_bytes(4, "big") + b"ftyp" + f"{major:4}".encode() + bytes(4) + brands + bytes(64)


@pytest.mark.parametrize("brand", VIDEO_BRANDS)
def test_every_brand_of_a_video_is_a_video(brand: str) -> None:
    with from_bytes(_box(brand, brand), "video", limit_bytes=1_000) as media:
        assert (media.content_type, media.extension) == ("video/mp4", "mp4")


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        pytest.param(_box("qt"), "video/quicktime", id="QuickTime"),
        pytest.param(_box("3gp4"), "video/3gpp", id="3GPP"),
        pytest.param(_box("heix"), "image/heic", id="HEIC of ten bits"),
        pytest.param(_box("mif1", "mif1", "heic"), "image/heic", id="HEIC by a compatible brand"),
        pytest.param(_box("mif1", "avif"), "image/avif", id="AVIF by a compatible brand"),
        pytest.param(_box("avis"), "image/avif", id="AVIF with frames"),
        pytest.param(_box("mif1"), "image/heif", id="HEIF"),
        pytest.param(b"\xff\x0a" + bytes(20), "image/jxl", id="JPEG XL"),
        pytest.param(b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(20), "image/jxl", id="JPEG XL in boxes"),
        pytest.param(b"\x1a\x45\xdf\xa3\xa3\x42\x82\x84webm" + bytes(20), "video/webm", id="WebM"),
        pytest.param(b"\x1a\x45\xdf\xa3\xa3\x42\x82\x88matroska" + bytes(20), "video/x-matroska", id="Matroska"),
        pytest.param((b"G" + bytes(187)) * 4, "video/mp2t", id="transport stream"),
    ],
)
def test_containers_and_codestreams_are_recognised(head: bytes, content_type: str) -> None:
    kind = kind_of(head)
    assert kind is not None
    assert kind.content_type == content_type


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000"])
def test_what_pillow_writes_is_a_picture(name: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, name)
    with from_bytes(buffer.getvalue(), "image", limit_bytes=10_000) as media:
        assert media.content_type.startswith("image/")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \n",
        b"<html><svg></svg></html>",
        b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        b'{"error": "gone"}',
        b'["a", "b"]',
        b"<html>\x00</html>",
        b"BMW, GIF and other words",
        "文件不存在".encode(),
        "文件不存在".encode("gbk"),
        "gone".encode("utf-16"),
    ],
)
def test_texts_are_never_kept(content: bytes) -> None:
    assert is_text(content)
    with pytest.raises(GenerationError, match="of no known type"):
        from_bytes(content, "image", limit_bytes=1_000, takes_any=True)


@pytest.mark.parametrize(
    "content",
    [
        b"<svg/>",
        b'<?xml version="1.0"?>\n<!-- by a <b>program</b> --><svg xmlns="http://www.w3.org/2000/svg">',
        b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "svg11.dtd" [<!ENTITY a "b">]>\n<svg:svg>',
    ],
)
def test_svg_is_kept_as_a_file_that_nothing_shows(content: bytes) -> None:
    with pytest.raises(GenerationError, match="of no known type"):
        from_bytes(content, "image", limit_bytes=1_000)
    with from_bytes(content, "image", limit_bytes=1_000, takes_any=True) as media:
        assert (media.content_type, media.extension) == ("application/octet-stream", "bin")


def test_a_page_of_many_comments_is_looked_into_quickly() -> None:
    assert not is_svg(b"<!-- -->" * 1_000 + b"<html>")


def test_another_kind_of_media_is_kept_with_its_own_type_where_anything_is() -> None:
    with pytest.raises(GenerationError, match="its bytes are video/mp4"):
        from_bytes(_box("isom"), "image", limit_bytes=1_000)
    with from_bytes(_box("isom"), "image", limit_bytes=1_000, takes_any=True) as media:
        assert media.content_type == "video/mp4"
