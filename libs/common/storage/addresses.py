"""Which hosts may be fetched from: public ones, and those the catalog names. The address asked is the one checked."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from libs.common.errors import ErrorCode, GenerationError
from libs.common.hosts import host_of, is_listed, url_as_written

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# IETF protocol assignments, and the anycast of 6to4 relays, which was given up (RFC 7526).
_NOT_ORDINARY = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("192.88.99.0/24"))


def is_public(address: str) -> bool:
    """Whether an IP address, as text, belongs to the public internet. False for what is no IP address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        embedded = found.ipv4_mapped or found.sixtofour
        if embedded is not None:
            return _is_public(embedded)
        # NAT64 (RFC 6052), IPv4-compatible addresses and the like lie outside of what is global unicast (RFC 4291);
        # Teredo lies within and reaches IPv4 hosts that the address hides.
        if found not in _GLOBAL_UNICAST or found.teredo is not None:
            return False
    return _is_public(found)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    special = any(address in network for network in _NOT_ORDINARY if network.version == address.version)
    return address.is_global and not address.is_multicast and not special


def check_url(url: URL, allowed_hosts: Sequence[str]) -> None:
    """Raise GenerationError INVALID_REQUEST unless `url` may be fetched as far as its text tells.

    A host given as an address never reaches a resolver, so it is judged here; a name is judged once it is resolved.
    """
    host = host_of(url)
    if url.scheme not in {"http", "https"} or not host:
        raise _refused(host, "only http and https URLs are fetched")
    if is_listed(host, allowed_hosts):
        return
    numeric = _numeric_address(host.rstrip("."))
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


def parsed_url(text: str) -> URL:
    """A URL, requested as it is written. GenerationError INVALID_REQUEST for what is none."""
    try:
        return url_as_written(text)
    except ValueError as error:
        raise _refused("", "it is no URL") from error


def _refused(host: str, why: str) -> GenerationError:
    return GenerationError(ErrorCode.INVALID_REQUEST, f"The URL is refused: {why}.", {"host": host[:200]})


def guarded_session(
    allowed_hosts: Sequence[str], inner: AbstractResolver | None = None, **options: Any
) -> aiohttp.ClientSession:
    """A session that connects to public addresses and to `allowed_hosts` alone. It keeps no cookies and no connections.

    A host that sends more than it was asked for must not have it taken for the answer to somebody else's request.

    `inner` as for `GuardedResolver`; `options` as for `aiohttp.ClientSession`.
    """
    resolver = GuardedResolver(allowed_hosts, inner)
    connector = aiohttp.TCPConnector(resolver=resolver, limit=0, ttl_dns_cache=10, force_close=True)
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), **options)


class GuardedResolver(AbstractResolver):
    """Answers only with addresses that may be connected to, so that what was checked is what is asked.

    Args:
        allowed_hosts: names that may have private addresses.
        inner: who is asked. None: the system.
    """

    def __init__(self, allowed_hosts: Sequence[str], inner: AbstractResolver | None = None) -> None:
        self._allowed_hosts = allowed_hosts
        self._inner = inner or ThreadedResolver()

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
