"""Images are fetched from the public internet alone, whatever a URL, a name or a redirect says."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from bench.imaging.pictures import quarters, written
from libs.common.errors import ErrorCode, GenerationError
from libs.common.preprocessing.fetching import Fetcher
from libs.common.storage.addresses import guarded_session
from libs.common.storage.download import Downloader
from tests.support.closing import closing
from tests.support.http import serving

CONTENT = written(quarters(), "PNG")
INSIDE = {
    "loopback": "http://127.0.0.1:{port}/x",
    "all of loopback": "http://127.8.9.10:{port}/x",
    "this host": "http://0.0.0.0:{port}/x",
    "10/8": "http://10.0.0.1/x",
    "172.16/12": "http://172.31.255.254/x",
    "192.168/16": "http://192.168.0.1/x",
    "carrier NAT": "http://100.64.0.1/x",
    "link-local": "http://169.254.1.1/x",
    "the cloud's metadata": "http://169.254.169.254/latest/meta-data/iam",
    "broadcast": "http://255.255.255.255/x",
    "multicast": "http://224.0.0.1/x",
    "decimal": "http://2130706433:{port}/x",
    "hexadecimal": "http://0x7f000001:{port}/x",
    "octal": "http://017700000001:{port}/x",
    "mixed": "http://0x7f.0.0.1:{port}/x",
    "short": "http://127.1:{port}/x",
    "zero": "http://0:{port}/x",
    "trailing dot": "http://127.0.0.1.:{port}/x",
    "digits in circles": "http://①②⑦.⓪.⓪.①:{port}/x",
    "wide dots": "http://127。0。0。1:{port}/x",
    "IPv6 loopback": "http://[::1]:{port}/x",
    "IPv6 unspecified": "http://[::]:{port}/x",
    "IPv4-mapped": "http://[::ffff:127.0.0.1]:{port}/x",
    "IPv4-mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/x",
    "IPv4-compatible": "http://[::127.0.0.1]:{port}/x",
    "IPv4-translated": "http://[::ffff:0:127.0.0.1]:{port}/x",
    "NAT64": "http://[64:ff9b::127.0.0.1]:{port}/x",
    "6to4": "http://[2002:7f00:1::]:{port}/x",
    "unique local": "http://[fd00::1]/x",
    "link-local with a zone": "http://[fe80::1%25lo]:{port}/x",
    "site-local": "http://[fec0::1]/x",
    "a name": "http://localhost:{port}/x",
    "a name in capitals": "HTTP://LOCALHOST:{port}/x",
    "with credentials": "http://user:password@127.0.0.1:{port}/x",
    "credentials that look like a host": "http://example.com@127.0.0.1:{port}/x",
    "a backslash": "http://127.0.0.1:{port}\\@example.com/x",
    "a file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1:{port}/x",
    "gopher": "gopher://127.0.0.1:{port}/x",
    "no host": "http:///x",
    "no scheme": "//127.0.0.1:{port}/x",
    "no URL": "http://0000::1/x",
}


@dataclass
class Inside:
    """A server on this machine that nobody is to reach."""

    url: str
    reached: list[str] = field(default_factory=list)
    redirect_to: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/redirect"):
            return web.Response(status=302, headers={"location": self.redirect_to})
        self.reached.append(request.path)
        return web.Response(body=CONTENT)


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    found = Inside("")
    async with serving([web.get("/{path:.*}", found.serve)], host="0.0.0.0") as url:
        found.url = url.replace("0.0.0.0", "127.0.0.1")
        yield found


def _fetcher(*allowed_hosts: str, limit_bytes: int = 10**6, timeout_seconds: float = 2.0) -> Fetcher:
    downloader = Downloader(limit_bytes=limit_bytes, timeout_seconds=timeout_seconds, what="The image")
    return Fetcher(downloader, limit_bytes=limit_bytes, allowed_hosts=allowed_hosts)


async def _refusal(fetcher: Fetcher, url: str) -> GenerationError:
    async with closing(fetcher):
        with pytest.raises(GenerationError) as raised:
            await fetcher.fetch(url)
    return raised.value


@pytest.mark.parametrize("name", list(INSIDE))
async def test_what_leads_inside_is_refused_and_never_reached(inside: Inside, name: str) -> None:
    error = await _refusal(_fetcher(), INSIDE[name].format(port=inside.port))
    assert (error.code, error.is_retryable) == (ErrorCode.INVALID_REQUEST, False), error
    assert inside.reached == []


# Without a host, a redirect stays where it is.
@pytest.mark.parametrize("name", [name for name in INSIDE if name != "no host"])
async def test_a_redirect_that_leads_inside_is_refused(inside: Inside, name: str) -> None:
    inside.redirect_to = INSIDE[name].format(port=inside.port)
    # This machine by another of its addresses, which alone is let pass.
    error = await _refusal(_fetcher("127.0.0.3"), f"http://127.0.0.3:{inside.port}/redirect")
    assert (error.code, error.is_retryable) == (ErrorCode.INVALID_REQUEST, False), error
    assert inside.reached == []


class Changing(AbstractResolver):
    """A name server whose owner changes its mind: each answer is used once, the last one for ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        addresses = self._answers[min(self.asked, len(self._answers) - 1)]
        self.asked += 1
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0)
            for one in addresses
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([["127.0.0.1"]], id="private at once"),
        pytest.param([["127.0.0.1", "10.0.0.1", "169.254.169.254"]], id="several private ones"),
    ],
)
async def test_a_name_with_a_private_address_is_refused(inside: Inside, answers: list[list[str]]) -> None:
    names = Changing(*answers)
    async with guarded_session((), names) as session:
        with pytest.raises(GenerationError, match="not public"):
            await session.get(f"http://rebound.example:{inside.port}/x")
    assert (names.asked, inside.reached) == (1, [])


async def test_a_name_that_changes_its_answer_is_connected_to_where_it_was_checked(inside: Inside) -> None:
    """It is public when it is looked at and private when it is asked again: there is no second time."""
    names = Changing(["198.41.0.4"], ["127.0.0.1"])
    timeout = aiohttp.ClientTimeout(total=0.5)
    async with guarded_session((), names) as session:
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await session.get(f"http://rebound.example:{inside.port}/x", timeout=timeout)
        assert (names.asked, inside.reached) == (1, [])
    async with guarded_session((), names) as another:
        with pytest.raises(GenerationError, match="not public"):
            await another.get(f"http://rebound.example:{inside.port}/x", timeout=timeout)
    assert inside.reached == []


async def test_a_private_address_among_public_ones_is_left_out(inside: Inside) -> None:
    async with guarded_session((), Changing(["198.41.0.4", "127.0.0.1"])) as session:
        with pytest.raises((aiohttp.ClientError, TimeoutError)):
            await session.get(f"http://mixed.example:{inside.port}/x", timeout=aiohttp.ClientTimeout(total=0.5))
    assert inside.reached == []


async def test_an_allowed_host_is_reached(inside: Inside) -> None:
    async with closing(_fetcher("127.0.0.1")) as fetcher:
        assert await fetcher.fetch(f"{inside.url}/x.png") == CONTENT


async def test_a_redirect_without_end_is_refused(inside: Inside) -> None:
    inside.redirect_to = f"{inside.url}/redirect"
    error = await _refusal(_fetcher("127.0.0.1"), f"{inside.url}/redirect")
    assert (error.code, "redirects more than 3 times" in error.message) == (ErrorCode.INVALID_REQUEST, True)


async def test_too_many_bytes_are_not_read() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(64 * 1024))

    async with serving([web.get("/x", endless)]) as url:
        error = await _refusal(_fetcher("127.0.0.1", limit_bytes=200_000), f"{url}/x")
    assert (error.code, error.message) == (ErrorCode.INVALID_REQUEST, "The image is larger than 200000 bytes.")


async def test_a_host_that_dawdles_is_given_up_and_may_be_asked_again() -> None:
    async def dawdle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        await request.content.read()
        while not request.transport.is_closing() if request.transport else False:
            await response.write(b"x")
        return response

    async with serving([web.get("/x", dawdle)]) as url:
        error = await _refusal(_fetcher("127.0.0.1", limit_bytes=10**9, timeout_seconds=0.3), f"{url}/x")
    assert (error.code, error.is_retryable) == (ErrorCode.PROVIDER_TIMEOUT, True)
