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
        client = ProviderHttp(
            base_url=str(server.make_url("/")),
            headers=lambda: {"x-key": SECRET},
            secrets=(SECRET,),
            trusted_hosts=(".trusted.example.com",),
            submit_timeout_seconds=0.5,
            check_timeout_seconds=0.5,
            reply_limit_bytes=10_000,
            refine=lambda _: None,
        )
        clients.append(client)
        return client

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
