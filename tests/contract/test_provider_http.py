"""What the adapters' HTTP client does with replies that no vendor's documentation mentions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from libs.common.adapters.http import TEXT_LIMIT, ProviderHttp
from libs.common.errors import ErrorCode, GenerationError, NotAccepted

SECRET = "sk-very-secret"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[ProviderHttp]]


def _client(base_url: str) -> ProviderHttp:
    return ProviderHttp(
        base_url=base_url,
        headers=lambda: {"x-key": SECRET},
        secrets=(SECRET,),
        trusted_hosts=(".trusted.example.com",),
        submit_timeout_seconds=0.5,
        check_timeout_seconds=0.5,
        reply_limit_bytes=10_000,
        refine=lambda _: None,
    )


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves one handler, and answers a client of it."""
    servers: list[TestServer] = []
    clients: list[ProviderHttp] = []

    async def start(handler: Handler) -> ProviderHttp:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        clients.append(_client(str(server.make_url("/"))))
        return clients[-1]

    yield start
    for client in clients:
        await client.close()
    for server in servers:
        await server.close()


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


async def test_a_408_proves_nothing(serve: Serve) -> None:
    async def timeout(_: web.Request) -> web.Response:
        return web.Response(status=408)

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

    http = await serve(refuse)
    http._headers = lambda: {"authorization": "Bearer "}
    with pytest.raises(NotAccepted, match="bad request"):
        await http.post("/v1/x", json={})
