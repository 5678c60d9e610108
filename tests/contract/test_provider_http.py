"""What the adapters' HTTP client does with replies that no vendor's documentation mentions."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from libs.common.adapters.base import Completed, ProviderOutput
from libs.common.adapters.http import TEXT_LIMIT, ProviderHttp, may_leave
from libs.common.adapters.tuzi_openai import TuziOpenAI
from libs.common.errors import ErrorCode, GenerationError, NotAccepted, NotSent, UnreadableReply
from tests.contract.cases import CASES
from tests.support.closing import closing

SECRET = "sk-very-secret"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Serve(Protocol):
    """Serves a handler, and returns a client of it which sends `x-key`."""

    async def __call__(self, handler: Handler, *, key: str = SECRET) -> ProviderHttp: ...


def _client(base_url: str, key: str = SECRET) -> ProviderHttp:
    return ProviderHttp(
        base_url=base_url,
        headers=lambda: {"x-key": key},
        secrets=(SECRET,),
        trusted_hosts=(".trusted.example.com",),
        submit_timeout_seconds=2.0,
        check_timeout_seconds=2.0,
        reply_limit_bytes=10_000,
        refine=lambda _: None,
        is_accepted=TuziOpenAI.is_accepted,
    )


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as opened:

        async def start(handler: Handler, *, key: str = SECRET) -> ProviderHttp:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            server = await opened.enter_async_context(TestServer(app))
            return await opened.enter_async_context(closing(_client(str(server.make_url("/")), key)))

        yield start


async def test_a_credential_that_is_echoed_is_cut_out(serve: Serve) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(status=400, text=f"bad key {request.headers['x-key']} \x00 given")

    http = await serve(echo)
    with pytest.raises(NotAccepted) as caught:
        await http.post("/v1/x", json={})
    told = f"{caught.value} {caught.value.details}"
    assert SECRET not in told
    assert "[redacted]" in told
    assert "\x00" not in told


async def test_a_reply_without_end_is_cut_off(serve: Serve) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1_000):
            await response.write(b"x" * 1_000)
        return response

    http = await serve(endless)
    with pytest.raises(GenerationError, match="larger than 10000 bytes") as caught:
        await http.get("/v1/x")
    assert caught.value.code is ErrorCode.PROVIDER_ERROR


async def test_a_long_error_is_cut(serve: Serve) -> None:
    async def long(_: web.Request) -> web.Response:
        return web.Response(status=500, text="x" * 9_000)

    http = await serve(long)
    with pytest.raises(GenerationError) as caught:
        await http.get("/v1/x")
    assert len(caught.value.message) < TEXT_LIMIT + 100


async def test_a_redirect_is_not_followed_with_credentials(serve: Serve) -> None:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"location": "https://evil.example.com"})

    http = await serve(redirect)
    with pytest.raises(GenerationError, match="302"):
        await http.post("/v1/x", json={})


async def test_json_nested_without_end_is_no_reply(serve: Serve) -> None:
    async def nested(_: web.Request) -> web.Response:
        return web.Response(text="[" * 9_000, content_type="application/json")

    http = await serve(nested)
    assert (await http.get("/v1/x")).body is None


async def test_a_slow_reply_times_out_and_leaves_a_submit_uncertain(serve: Serve) -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    http = await serve(slow)
    with pytest.raises(GenerationError) as caught:
        await http.post("/v1/x", json={})
    assert caught.value.code is ErrorCode.PROVIDER_TIMEOUT
    assert not isinstance(caught.value, NotAccepted)


@pytest.mark.parametrize("status", [408, 460, 499])
async def test_a_call_that_broke_off_on_its_way_proves_nothing(serve: Serve, status: int) -> None:
    async def timeout(_: web.Request) -> web.Response:
        return web.Response(status=status)

    http = await serve(timeout)
    with pytest.raises(GenerationError) as caught:
        await http.post("/v1/x", json={})
    assert not isinstance(caught.value, NotAccepted)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example.com/x",
        "https://trusted.example.com.evil.com/x",
        "https://eviltrusted.example.com",
        "ftp://a.trusted.example.com/x",
        "file:///etc/passwd",
        "http://[broken",
        "",
    ],
)
async def test_credentials_stay_with_the_hosts_of_the_catalog(serve: Serve, url: str) -> None:
    async def fine(_: web.Request) -> web.Response:
        return web.Response()

    http = await serve(fine)
    with pytest.raises(GenerationError):
        await http.get(url)


@pytest.mark.parametrize(
    "base_url",
    [
        pytest.param("http://127.0.0.1:9", id="refused"),
        pytest.param("http://nowhere.invalid", id="no such name"),
        pytest.param("http://192.0.2.1", id="a connection that is never made"),
    ],
)
async def test_what_never_reached_the_provider_was_not_accepted(base_url: str) -> None:
    async with _client(base_url) as http:
        with pytest.raises(NotAccepted) as caught:
            await http.post("/v1/x", json={})
    assert caught.value.is_retryable
    assert caught.value.code in {ErrorCode.PROVIDER_UNAVAILABLE, ErrorCode.PROVIDER_TIMEOUT}


async def test_a_handshake_that_fails_was_not_accepted(serve: Serve) -> None:
    async def plain(_: web.Request) -> web.Response:
        return web.Response()

    over_tls = (await serve(plain)).url("").replace("http:", "https:")
    async with _client(over_tls) as http:
        with pytest.raises(NotAccepted) as caught:
            await http.post("/v1/x", json={})
    assert caught.value.code is ErrorCode.PROVIDER_UNAVAILABLE


async def test_a_credential_that_is_blank_does_not_spoil_the_texts(serve: Serve) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=400, text="bad request")

    http = await serve(refuse, key="Bearer ")
    with pytest.raises(NotAccepted, match="bad request"):
        await http.post("/v1/x", json={})


async def test_request_that_may_not_leave_is_held_back_when_its_connection_is_made(serve: Serve) -> None:
    received: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        received.append(request.method)
        return web.json_response({})

    http = await serve(answer)
    asked: list[str] = []

    def refuse() -> bool:
        asked.append("submit")
        return False

    may_leave.set(refuse)
    with pytest.raises(NotSent):
        await http.post("/submit", json={"prompt": "a red apple"})
    # A check may always be made: nobody pays for it.
    await http.get("/check")
    assert (received, asked) == (["GET"], ["submit"])
    may_leave.set(lambda: True)
    await http.post("/submit", json={"prompt": "a red apple"})
    assert received == ["GET", "POST"]


async def test_picture_that_is_the_reply_itself_is_the_output_of_a_synchronous_submit(serve: Serve) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 40), 80).save(file, "PNG")

    async def raw(_: web.Request) -> web.Response:
        return web.Response(body=file.getvalue(), content_type="image/png")

    answer = await TuziOpenAI(await serve(raw)).submit(CASES["tuzi_openai"].request("x"))
    assert answer == Completed((ProviderOutput(content=file.getvalue()),))


def _event(name: str, data: str) -> str:
    return f"event: {name}\r\ndata: {data}\r\n\r\n"


@pytest.mark.parametrize("status", [200, 429])
async def test_images_of_a_stream_of_events_are_the_outputs_of_a_synchronous_submit(serve: Serve, status: int) -> None:
    def image(kind: str, size: int) -> str:
        file = io.BytesIO()
        Image.new("RGB", (size, size)).save(file, "PNG")
        encoded = base64.b64encode(file.getvalue()).decode()
        return _event(kind, json.dumps({"type": kind, "b64_json": encoded}))

    stream = image("image_generation.partial_image", 8) + image("image_generation.completed", 16)

    async def stream_events(_: web.Request) -> web.Response:
        return web.Response(
            status=status, text=": a comment\n\n" + stream + _event("done", "[DONE]"), content_type="text/event-stream"
        )

    answer = await TuziOpenAI(await serve(stream_events)).submit(CASES["tuzi_openai"].request("x"))
    assert isinstance(answer, Completed)
    (output,) = answer.outputs
    assert Image.open(io.BytesIO(output.content or b"")).size == (16, 16)
    assert answer.unread == 0


async def test_stream_of_events_without_a_finished_image_is_unreadable(serve: Serve) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    preview = {"type": "image_generation.partial_image", "b64_json": base64.b64encode(file.getvalue()).decode()}

    async def stream_events(_: web.Request) -> web.Response:
        return web.Response(text=_event("x", json.dumps(preview)), content_type="text/event-stream")

    with pytest.raises(UnreadableReply):
        await TuziOpenAI(await serve(stream_events)).submit(CASES["tuzi_openai"].request("x"))


async def test_picture_that_is_the_body_of_a_client_error_is_the_output(serve: Serve) -> None:
    file = io.BytesIO()
    Image.effect_noise((40, 40), 80).save(file, "PNG")

    async def raw(_: web.Request) -> web.Response:
        return web.Response(status=429, body=file.getvalue(), content_type="image/png")

    answer = await TuziOpenAI(await serve(raw)).submit(CASES["tuzi_openai"].request("x"))
    assert answer == Completed((ProviderOutput(content=file.getvalue()),))


@pytest.mark.parametrize(("status", "body"), [(200, b"no picture"), (200, b""), (500, b"\x89PNG\r\n\x1a\n")])
async def test_reply_that_is_no_picture_is_no_output(serve: Serve, status: int, body: bytes) -> None:
    async def raw(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type="image/png")

    with pytest.raises(GenerationError) as caught:
        await TuziOpenAI(await serve(raw)).submit(CASES["tuzi_openai"].request("x"))
    assert not isinstance(caught.value, NotAccepted)
