"""Whether a file is whole, over files that Pillow and FFmpeg write, cut off anywhere."""

from __future__ import annotations

import io
from fractions import Fraction
from tempfile import NamedTemporaryFile
from typing import cast

import av
import pytest
from av.video.stream import VideoStream
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from libs.common.endings import has_its_end, is_cut_off


def _image(kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((48, 32), 90).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def _video(kind: str, codec: str, **options: str) -> bytes:
    with NamedTemporaryFile() as file:
        _write_video(file.name, kind, codec, options)
        return file.read()


def _write_video(path: str, kind: str, codec: str, options: dict[str, str]) -> None:
    # The index can be moved only within a file that has a name.
    with av.open(path, "w", format=kind, options=options) as container:
        stream = cast("VideoStream", container.add_stream(codec, rate=Fraction(10)))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(48, 32, "yuv420p")))
        container.mux(stream.encode())


WHOLE: dict[str, bytes] = {
    "PNG": _image("PNG"),
    "JPEG": _image("JPEG"),
    "progressive JPEG": _image("JPEG", progressive=1),
    "WebP": _image("WEBP"),
    "lossless WebP": _image("WEBP", lossless=1),
    "AVIF": _image("AVIF"),
    "MP4": _video("mp4", "mpeg4"),
    "MP4 with its index first": _video("mp4", "mpeg4", movflags="faststart"),
    "QuickTime": _video("mov", "mpeg4"),
}
UNTOLD: dict[str, bytes] = {
    "GIF": _image("GIF"),
    "BMP": _image("BMP"),
    "MP4 of fragments": _video("mp4", "mpeg4", movflags="frag_keyframe+empty_moov"),
    "nothing": b"",
    "text": b"\x89PNG\r\n",
    "RIFF": b"RIFF\x04\x00\x00\x00WAVE",
}


def _is_whole(content: bytes) -> bool:
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    found = has_its_end(file, len(content))
    assert file.tell() == len(content), "the place is where it was"
    return found


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_file_is_known(kind: str) -> None:
    assert _is_whole(WHOLE[kind])


@pytest.mark.parametrize("kind", UNTOLD)
def test_a_format_that_does_not_tell_its_end_is_not_believed(kind: str) -> None:
    assert not _is_whole(UNTOLD[kind])


@given(kind=st.sampled_from(sorted(WHOLE)), part=st.floats(0, 1, exclude_max=True))
def test_a_file_that_is_cut_off_is_not_whole(kind: str, part: float) -> None:
    assert not _is_whole(WHOLE[kind][: int(len(WHOLE[kind]) * part)])


def test_a_jpeg_that_is_cut_off_behind_its_thumbnail_is_not_whole() -> None:
    thumbnail = _image("JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = thumbnail[:2] + segment + thumbnail[2:]
    assert _is_whole(whole)
    assert not _is_whole(whole[: 2 + len(segment)])


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x00\x00\x10ftypisom\x00\x00\x00\x00" + b"\x00\x00\x00\x01mdat" + b"\xff" * 8 + b"x" * 100,
        b"\x00\x00\x00\x10ftypavif\x00\x00\x00\x00" + b"\x00\x00\x00\x08meta" + b"\x00\x00\x00\x08mdat",
        b"RIFF\x6c\x00\x00\x00WEBPVP8 \x40\x0d\x03\x00" + b"x" * 96,
        b"RIFF\x0c\x00\x00\x00WEBPVP8 \x00\x00\x00\x00",
    ],
    ids=["a huge box", "empty boxes", "a chunk that is larger than the file", "an empty chunk"],
)
def test_sizes_that_do_not_add_up_are_not_believed(content: bytes) -> None:
    assert not _is_whole(content)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_without_its_last_byte_is_not_whole(kind: str) -> None:
    assert not _is_whole(WHOLE[kind][:-1])


def _is_cut_off(content: bytes) -> bool:
    return is_cut_off(io.BytesIO(content), len(content))


@pytest.mark.parametrize("kind", WHOLE | UNTOLD)
def test_a_whole_file_is_not_cut_off_whatever_follows_it(kind: str) -> None:
    content = (WHOLE | UNTOLD)[kind]
    assert kind == "text" or not _is_cut_off(content)
    if kind in WHOLE:
        assert not _is_cut_off(content + b"\x00" * 100)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_that_is_cut_off_says_so(kind: str, part: float) -> None:
    assert _is_cut_off(WHOLE[kind][: int(len(WHOLE[kind]) * part)])


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x00\x00\x00\x10ftypisom"]), st.binary(max_size=200))
def test_no_bytes_are_too_odd_to_ask(head: bytes, rest: bytes) -> None:
    content = head + rest
    assert not (_is_whole(content) and _is_cut_off(content))


def test_a_jpeg_that_ends_within_its_thumbnail_is_not_whole() -> None:
    thumbnail = _image("JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 1_000).to_bytes(2, "big") + thumbnail
    assert not _is_whole(b"\xff\xd8" + segment)


def test_a_jpeg_whose_segments_lead_to_no_marker_is_not_whole() -> None:
    segment = b"\xff\xe1\x00\x04ab"
    assert not _is_whole(b"\xff\xd8" + segment + b"no marker" + b"\xff\xd9")
