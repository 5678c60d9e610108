"""Replies that break a rule of their format and hold what was paid for all the same."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from libs.common.adapters.base import Completed
from libs.common.adapters.media import outputs_in
from libs.common.adapters.reading import parsed
from libs.common.database.states import TaskState
from tests.contract.answers import checked, over
from tests.contract.cases import CASES
from tests.contract.test_framing import _length
from tests.contract.test_paid_replies import B64, PNG
from tests.contract.test_provider_http import _client
from tests.support.raw_http import answering

BODY: dict[str, Any] = {"created": 1, "data": [{"b64_json": B64}]}
JSON = json.dumps(BODY).encode()
FORMS = {
    "a control character": JSON[:-1] + b', "note": "a\x01\nb"}',
    "bytes that are no UTF-8": JSON[:-1] + b', "note": "caf\xe9"}',
    "NUL behind": JSON + b"\x00\x00",
    "a byte order mark": b"\xef\xbb\xbf" + JSON,
    "a guard against scripts": b")]}',\n" + JSON,
    "a large number": JSON[:-1] + b', "seed": ' + b"9" * 5_000 + b"}",
    "two documents": b'{"progress": 50}\n' + JSON + b"\n",
    "something behind": JSON + b"\n<!-- cached -->",
    "UTF-16": JSON.decode().encode("utf-16"),
}


@pytest.mark.parametrize("form", FORMS)
async def test_the_images_of_a_reply_are_read(form: str) -> None:
    answer = await over("tuzi_openai", (200, FORMS[form])).submit(CASES["tuzi_openai"].request("x"))
    assert isinstance(answer, Completed)
    assert [output.content for output in answer.outputs] == [PNG]


@pytest.mark.parametrize(
    "text", [b"", b"OK", b"200", b"12 monkeys", b"null", b"<html>{}</html>", b"[", b'{"a": ', b'"x']
)
def test_what_is_no_json_is_none(text: bytes) -> None:
    assert parsed(text) in (None, 200)


@pytest.mark.parametrize(
    "raw",
    [
        _length(gzip.compress(JSON)),
        _length(gzip.compress(JSON), headers=b"content-encoding: identity\r\n"),
        _length(gzip.compress(JSON), headers=b"content-encoding: identity\r\ncontent-encoding: gzip\r\n"),
    ],
    ids=["no label", "identity", "two headers"],
)
async def test_a_packed_reply_without_its_label_is_read(raw: bytes) -> None:
    async with answering(raw) as base_url, _client(base_url) as http:
        assert (await http.post("/x", json={})).body == BODY


@pytest.mark.parametrize("event", [b"data: %s\n\n", b"event: done\ndata: %s\n\n"])
async def test_events_without_their_content_type_are_read(event: bytes) -> None:
    async with answering(_length(event % JSON)) as base_url, _client(base_url) as http:
        assert (await http.post("/x", json={})).body == [BODY]


async def test_a_data_url_as_the_whole_reply_is_the_image() -> None:
    raw = _length(f"data:image/png;base64,{B64}".encode(), headers=b"content-type: text/plain\r\n")
    async with answering(raw) as base_url, _client(base_url) as http:
        assert (await http.post("/x", json={})).content == PNG


@pytest.mark.parametrize(
    "body",
    [
        {"data": [{"b64_json": [B64]}]},
        {"data": [{"url": ["https://a.example/1.png"]}]},
        {"data": [None], "images": [{"url": "https://a.example/1.png"}]},
        {"choices": [{"message": {"content": "Here: ![image](https://a.example/1.png) as asked"}}]},
    ],
    ids=["list of base64", "list of URLs", "an empty entry beside images", "Markdown"],
)
def test_images_are_found_in_other_places(body: Any) -> None:
    (output,) = outputs_in(body).read
    assert output.url == "https://a.example/1.png" or output.content == PNG


@pytest.mark.parametrize(
    ("output", "url"),
    [
        (" https://a.example/1.png\n", "https://a.example/1.png"),
        (['"https://a.example/1.png"'], "https://a.example/1.png"),
        (B64, f"data:;base64,{B64}"),
        ([{"b64_json": B64}], f"data:;base64,{B64}"),
    ],
)
async def test_the_output_of_a_task_is_read(output: Any, url: str) -> None:
    status = await checked("replicate", (200, {"id": "t", "status": "succeeded", "output": output}))
    assert status.state is TaskState.SUCCESS
    assert [made.url for made in status.outputs] == [url]


@pytest.mark.parametrize("earlier", [{"status": "processing"}, {"status": "failed", "error": "retrying"}])
async def test_of_several_documents_the_last_that_describes_the_task_counts(earlier: Any) -> None:
    last = {"id": "t", "status": "succeeded", "output": ["https://a.example/1.png"]}
    lines = b"\n".join(json.dumps(one).encode() for one in ({"id": "t", **earlier}, last, {"progress": 100}))
    status = await checked("replicate", (200, lines))
    assert status.state is TaskState.SUCCESS


@pytest.mark.parametrize("depth", [150, 400, 600])
def test_what_nests_too_deep_is_left_out(depth: int) -> None:
    content = json.dumps(BODY).encode()[:-1] + b', "x": "\\u0000", "deep": ' + b"[" * depth + b"]" * depth + b"}"
    found = parsed(content)
    assert found["data"] == BODY["data"]
    assert found["x"] == ""
