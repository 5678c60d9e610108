"""Images in replies of synchronous vendors are paid for: they are taken in every spelling, and never thrown away."""

from __future__ import annotations

import base64
import io
import textwrap
from time import perf_counter
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import ImagesResponse
from PIL import Image

from libs.common.adapters.base import Completed, ProviderOutput
from libs.common.adapters.media import outputs_in
from libs.common.encodings import content_of
from libs.common.errors import ErrorCode, GenerationError, NotAccepted, UnreadableReply
from tests.contract.answers import over
from tests.contract.cases import CASES


def _png(size: int = 40) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((size, size), 80).save(file, "PNG")
    return file.getvalue()


PNG = _png()
B64 = base64.b64encode(PNG).decode()
URL_SAFE = base64.urlsafe_b64encode(PNG).decode()
SPELLINGS = {
    "plain": B64,
    "data URL": f"data:image/png;base64,{B64}",
    "data URL in capitals": f"DATA:IMAGE/PNG;BASE64,{B64}",
    "data URL with parameters": f"data:image/png;charset=utf-8;name=a.png;base64,{B64}",
    "data URL without a type": f"data:;base64,{B64}",
    "data URL that forgets base64": f"data:image/png,{B64}",
    "data URL in percent encoding": f"data:image/png;base64,{quote(B64, safe='')}",
    "data URL of percent-encoded bytes": f"data:image/png,{quote(PNG)}",
    "prefix without data": f"base64,{B64}",
    "prefix with a type": f"image/png;base64,{B64}",
    "lines of 76": "\n".join(textwrap.wrap(B64, 76)),
    "lines with carriage returns": "\r\n".join(textwrap.wrap(B64, 64)) + "\r\n",
    "data URL in lines": "data:image/png;base64,\n" + "\n".join(textwrap.wrap(B64, 76)),
    "escaped line breaks": "\\n".join(textwrap.wrap(B64, 76)),
    "blanks around": f"  {B64}\t",
    "alphabet of URLs": URL_SAFE,
    "no padding": B64.rstrip("="),
    "no padding, alphabet of URLs": URL_SAFE.rstrip("="),
    "percent encoding": quote(B64, safe=""),
    "escaped slashes": B64.replace("/", "\\/"),
}


async def _outputs(body: Any) -> tuple[ProviderOutput, ...]:
    answer = await over("tuzi_openai", (200, body)).submit(CASES["tuzi_openai"].request("x"))
    assert isinstance(answer, Completed)
    return answer.outputs


@pytest.mark.parametrize("name", ["b64_json", "url", "image", "base64"])
@pytest.mark.parametrize("spelling", sorted(SPELLINGS))
async def test_images_are_read_in_every_spelling(name: str, spelling: str) -> None:
    (output,) = await _outputs({"created": 1, "data": [{name: SPELLINGS[spelling]}]})
    assert output == ProviderOutput(content=PNG)


@pytest.mark.parametrize("name", ["b64_json", "url"])
async def test_a_url_is_a_url_wherever_it_stands(name: str) -> None:
    assert await _outputs({"data": [{name: " https://a/1.png "}]}) == (ProviderOutput(url="https://a/1.png"),)


@pytest.mark.parametrize(
    "body",
    [
        {"data": [B64]},
        {"data": {"b64_json": B64}},
        {"data": {"images": [{"url": f"data:image/png;base64,{B64}"}]}},
        {"images": [{"b64_json": B64}]},
        {"images": [B64]},
        {"output": [{"image": {"b64_json": B64}}]},
        {"code": "success", "data": {"data": [{"b64_json": B64}]}},
        {"result": {"artifacts": [{"base64": B64}]}},
        {"data": [{"image_url": {"url": f"data:image/png;base64,{B64}"}}]},
        {"data": [{"b64_json": None, "url": B64}]},
        {"data": [{"b64_json": "!!!", "url": f"data:image/png;base64,{B64}"}]},
        {"data": [{"b64_json": B64}], "error": {"message": "a warning"}},
    ],
)
async def test_images_are_found_wherever_relays_put_them(body: Any) -> None:
    assert await _outputs(body) == (ProviderOutput(content=PNG),)


async def test_good_images_are_kept_beside_bad_ones() -> None:
    body = {"data": [{"b64_json": "%%%"}, {"b64_json": B64}, {}, None, {"url": "https://a/1.png"}]}
    answer = await over("tuzi_openai", (200, body)).submit(CASES["tuzi_openai"].request("x"))
    assert isinstance(answer, Completed)
    assert answer.outputs == (ProviderOutput(content=PNG), ProviderOutput(url="https://a/1.png"))
    assert answer.unread == 3


async def test_replies_of_the_official_client_are_read() -> None:
    reply = ImagesResponse.model_validate({"created": 1, "data": [{"b64_json": B64, "revised_prompt": "an apple"}]})
    assert await _outputs(reply.model_dump(mode="json")) == (ProviderOutput(content=PNG),)


@pytest.mark.parametrize("body", [{"data": []}, {"data": [{"b64_json": "!"}]}, {"data": [{"revised_prompt": "x"}]}, {}])
async def test_a_reply_without_images_is_unreadable_and_not_refused(body: Any) -> None:
    with pytest.raises(UnreadableReply) as caught:
        await _outputs(body)
    assert not isinstance(caught.value, NotAccepted)
    assert caught.value.code is ErrorCode.PROVIDER_ERROR


@given(content=st.binary(max_size=80), columns=st.integers(1, 30), padded=st.booleans(), safe=st.booleans())
def test_base64_comes_back_as_it_was(content: bytes, columns: int, padded: bool, safe: bool) -> None:
    text = (base64.urlsafe_b64encode if safe else base64.b64encode)(content).decode()
    text = "\n".join(text[start : start + columns] for start in range(0, len(text), columns))
    text = text if padded else text.replace("=", "")
    assert (content_of(f"data:image/png;base64,{text}") or b"") == content


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from([B64, "data:,x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "b64_json", "url", "images", "image", "output", "result"]), inner)
    ),
    max_leaves=20,
)


@given(body=_JSON, text=st.text(max_size=60))
def test_any_reply_is_read_without_an_error(body: Any, text: str) -> None:
    found = outputs_in(body)
    assert all((output.url is None) != (output.content is None) for output in found.read)
    assert found.unread >= 0
    for spelling in (text, f"data:{text}"):
        content = content_of(spelling)
        assert content is None or isinstance(content, bytes)


@pytest.mark.parametrize(
    "body",
    [{"data": ["=" * 10_000_000]}, {"data": ["A" * 20_000_001]}, {"data": [{"url": "data:" + "a;" * 10**6}] * 20}],
)
def test_reading_base64_is_bounded(body: Any) -> None:
    began = perf_counter()
    outputs_in(body)
    assert perf_counter() - began < 5


async def test_the_beginning_of_a_cut_reply_is_kept() -> None:
    with pytest.raises(GenerationError) as caught:
        await _outputs(b'{"data": [{"b64_json": "' + B64.encode() * 40)
    assert isinstance(caught.value, UnreadableReply)
    assert "characters of base64" in caught.value.reply["body"]


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/files/abcdefgh/abcd/ab", "https://relay.example.com/files/abcdefgh/abcd/ab"),
        ("/files/x.png?a=1", "https://relay.example.com/files/x.png?a=1"),
        ("//cdn.example.com/x.png", "https://cdn.example.com/x.png"),
    ],
)
def test_a_url_without_a_host_is_relative_to_the_providers(text: str, url: str) -> None:
    found = outputs_in({"data": [{"url": text}]}, "https://relay.example.com/v1")
    assert found.read == (ProviderOutput(url=url),)
    jpeg = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(60)).decode()
    assert jpeg.startswith("/9j/")
    (output,) = outputs_in({"data": [{"b64_json": jpeg}]}, "https://relay.example.com/v1").read
    assert output.content is not None
