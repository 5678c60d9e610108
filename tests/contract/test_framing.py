"""Replies and files that are all there, in HTTP that is written wrongly: whatever can be read is taken."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any

import pytest
from PIL import Image

from libs.common.adapters.http import ProviderHttp
from libs.common.errors import GenerationError, UnreadableReply
from libs.common.storage.download import Downloader
from tests.contract.test_provider_http import _client
from tests.support.raw_http import answering, chunked

REPLY: dict[str, Any] = {"id": "task_1", "status": "done", "text": "x" * 500}
JSON = json.dumps(REPLY).encode()
LARGE = b"content-security-policy: " + b"a" * 20_000 + b"\r\n"
COOKIES = b"".join(b"set-cookie: a%d=%s\r\n" % (number, b"b" * 300) for number in range(200))


def _file(side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((side, side), 90).save(file, "PNG", compress_level=0)
    return file.getvalue()


PNG = _file()


def _length(content: bytes, *, extra: int = 0, headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: %d\r\n" % (len(content) + extra)
    return head + headers + b"\r\n" + content


def _chunks(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(content)


def _packed(content: bytes, encoding: bytes) -> bytes:
    return _length(content, headers=b"content-encoding: " + encoding + b"\r\n")


def _framings(content: bytes) -> dict[str, bytes]:
    return {
        "a large header": _length(content, headers=LARGE),
        "many cookies": _length(content, headers=COOKIES),
        "plain, labelled gzip": _packed(content, b"gzip"),
        "plain, labelled br": _packed(content, b"br"),
        "plain, labelled deflate": _packed(content, b"deflate"),
        "gzip": _packed(gzip.compress(content), b"gzip"),
        "gzip of two members": _packed(gzip.compress(content[:9]) + gzip.compress(content[9:]), b"GZIP"),
        "zlib": _packed(zlib.compress(content), b"deflate"),
        "raw deflate": _packed(zlib.compress(content, wbits=-15), b"deflate"),
        "identity and gzip": _packed(gzip.compress(content), b"identity, gzip"),
        "gzip twice": _packed(gzip.compress(gzip.compress(content)), b"gzip, gzip"),
        "gzip, labelled twice": _packed(gzip.compress(content), b"gzip, gzip"),
        "aws-chunked and gzip": _packed(gzip.compress(content), b"aws-chunked, gzip"),
        "203": _length(content, status=b"203 Non-Authoritative Information"),
        "no length": b"HTTP/1.1 200 OK\r\n\r\n" + content,
    }


CUT = {
    "no last chunk": _chunks(JSON),
    "a length that is too large": _length(JSON, extra=1),
    "gzip without its end": _packed(gzip.compress(JSON)[:-8], b"gzip"),
}


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize("kind", [*_framings(JSON), *CUT])
async def test_a_reply_that_is_whole_is_read(method: str, kind: str) -> None:
    raw = (_framings(JSON) | CUT)[kind]
    async with answering(raw) as base_url, _client(base_url) as http:
        assert (await _ask(http, method)).body == REPLY


@pytest.mark.parametrize("raw", [_chunks(PNG), _length(PNG, extra=1)], ids=["no last chunk", "length too large"])
async def test_a_picture_that_is_whole_by_its_own_account_is_the_reply(raw: bytes) -> None:
    async with answering(raw) as base_url, _client(base_url) as http:
        assert (await _ask(http, "post")).content == PNG


@pytest.mark.parametrize("headers", [b"content-length: 3\r\n", b"no colon\r\n", b"x y: z\r\n"], ids=str)
async def test_a_reply_that_is_no_http_is_told_from_a_lost_one(headers: bytes) -> None:
    async with answering(_length(JSON, headers=headers)) as base_url, _client(base_url) as http:
        with pytest.raises(GenerationError, match="not valid HTTP") as caught:
            await _ask(http, "post")
    assert caught.value.details["is_no_http"] is True


async def test_a_header_of_a_hundred_thousand_bytes_is_read() -> None:
    raw = _length(JSON, headers=b"x: " + b"a" * 100_000 + b"\r\n")
    async with answering(raw) as base_url, _client(base_url) as http:
        assert (await _ask(http, "post")).body == REPLY


@pytest.mark.parametrize("method", ["post", "get"])
async def test_a_reply_whose_connection_is_held_open_is_read(method: str) -> None:
    async with answering(_chunks(JSON), holds=True) as base_url, _client(base_url) as http:
        assert (await _ask(http, method)).body == REPLY


@pytest.mark.parametrize("method", ["post", "get"])
@pytest.mark.parametrize(
    "raw",
    [_chunks(JSON[:-20]), _length(JSON[:-20], extra=20), _packed(gzip.compress(JSON)[:30], b"gzip"),
     _packed(b"\x1f\x8b" + JSON, b"gzip")],
    ids=["chunk", "length", "gzip", "no gzip"],
)  # fmt: skip
async def test_a_reply_that_is_cut_off_is_kept(method: str, raw: bytes) -> None:
    async with answering(raw) as base_url, _client(base_url) as http:
        with pytest.raises(UnreadableReply) as caught:
            await _ask(http, method)
    assert caught.value.reply["http_status"] == 200
    assert caught.value.reply["size_bytes"] > 0


async def test_a_packed_reply_is_bounded_by_what_it_holds() -> None:
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
    async with answering(_packed(bomb, b"gzip")) as base_url, _client(base_url) as http:
        with pytest.raises(UnreadableReply, match="larger than"):
            await http.get("/check")


@pytest.mark.parametrize(
    "raw",
    [*_framings(PNG).values(), _length(PNG, status=b"206 Partial Content",
                                       headers=b"content-range: bytes 0-%d/%d\r\n" % (len(PNG) - 1, len(PNG))),
     _length(PNG, status=b"206 Partial Content"),
     _length(PNG, status=b"206 Partial Content", headers=b"content-range: bytes 0-%d/*\r\n" % (len(PNG) - 1)),
     _chunks(PNG), _length(PNG, extra=1)],
    ids=[*_framings(PNG), "206 of the whole", "206 without a range", "206 without a size", "no last chunk",
         "length too large"],
)  # fmt: skip
async def test_a_file_that_is_whole_is_fetched(raw: bytes) -> None:
    downloader = Downloader(limit_bytes=1_000_000, timeout_seconds=5)
    try:
        async with answering(raw) as base_url:
            with await downloader.fetch(f"{base_url}/x.png", "image", allowed_hosts=["127.0.0.1"]) as media:
                assert (media.file.read(), media.content_type) == (PNG, "image/png")
    finally:
        await downloader.close()


async def test_a_large_file_without_its_last_chunk_is_fetched() -> None:
    content = _file(3_000)
    downloader = Downloader(limit_bytes=20_000_000, timeout_seconds=20)
    try:
        async with answering(_chunks(content)) as base_url:
            with await downloader.fetch(f"{base_url}/x.png", "image", allowed_hosts=["127.0.0.1"]) as media:
                assert media.size_bytes == len(content)
    finally:
        await downloader.close()


@pytest.mark.parametrize(
    "raw",
    [_chunks(PNG[:-1]), _length(PNG[:-1], extra=1), _packed(gzip.compress(PNG)[:90], b"gzip"),
     _length(PNG[:-1], status=b"206 Partial Content"),
     _length(PNG[:-1], status=b"206 Partial Content", headers=b"content-range: bytes 0-%d/*\r\n" % (len(PNG) - 2)),
     _length(PNG, status=b"206 Partial Content", headers=b"content-range: bytes 0-9/99999\r\n")],
    ids=["chunk", "length", "gzip", "206 without a range", "206 without a size", "206 of a part"],
)  # fmt: skip
async def test_a_file_that_may_be_cut_off_is_fetched_again(raw: bytes) -> None:
    downloader = Downloader(limit_bytes=1_000_000, timeout_seconds=5)
    try:
        async with answering(raw) as base_url:
            with pytest.raises(GenerationError) as caught:
                await downloader.fetch(f"{base_url}/x.png", "image", allowed_hosts=["127.0.0.1"])
    finally:
        await downloader.close()
    assert caught.value.is_retryable


async def _ask(http: ProviderHttp, method: str) -> Any:
    return await (http.post("/submit", json={}) if method == "post" else http.get("/check"))
