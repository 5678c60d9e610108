"""Which hosts may be fetched from: public ones, and those the catalog names. The address asked is the one checked."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from libs.common.errors import ErrorCode, GenerationError
from libs.common.hosts import is_listed


def is_public(address: str) -> bool:
    """Whether an IP address, as text, belongs to the public internet. False for what is no IP address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        embedded = found.ipv4_mapped or found.sixtofour
        if embedded is not None:
            return embedded.is_global and not embedded.is_multicast
        # NAT64 (RFC 6052) and Teredo reach IPv4 hosts that the address hides.
        if found in ipaddress.ip_network("64:ff9b::/96") or found.teredo is not None:
            return False
    return found.is_global and not found.is_multicast


def check_url(url: URL, allowed_hosts: Sequence[str]) -> None:
    """Raise GenerationError INVALID_REQUEST unless `url` may be fetched as far as its text tells.

    A host given as an address never reaches a resolver, so it is judged here; a name is judged once it is resolved.
    """
    host = url.host or ""
    if url.scheme not in {"http", "https"} or not host:
        raise _refused(host, "only http and https URLs are fetched")
    if is_listed(host, allowed_hosts):
        return
    numeric = _numeric_address(host)
    if numeric is not None and not is_public(numeric):
        raise _refused(host, "its address is not public")


def _numeric_address(host: str) -> str | None:
    """The address that a host in numbers stands for, in any notation (`127.1`, `0x7f000001`, `[::1]`), or None."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def _refused(host: str, why: str) -> GenerationError:
    return GenerationError(ErrorCode.INVALID_REQUEST, f"The URL is refused: {why}.", {"host": host[:200]})


def guarded_session(allowed_hosts: Sequence[str]) -> aiohttp.ClientSession:
    """A session that connects to public addresses and to `allowed_hosts` alone. It keeps no cookies."""
    connector = aiohttp.TCPConnector(resolver=GuardedResolver(allowed_hosts), limit=0, ttl_dns_cache=10)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class GuardedResolver(AbstractResolver):
    """Answers only with addresses that may be connected to, so that what was checked is what is asked.

    Args:
        allowed_hosts: names that may have private addresses.
    """

    def __init__(self, allowed_hosts: Sequence[str]) -> None:
        self._allowed_hosts = allowed_hosts
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The public addresses of `host`. GenerationError INVALID_REQUEST where it has none."""
        found = await self._inner.resolve(host, port, family)
        if is_listed(host, self._allowed_hosts):
            return found
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise _refused(host, "its address is not public")
        return public

    async def close(self) -> None:
        """Close the resolver."""
        await self._inner.close()
