"""Blocking addresses at a listening socket, by what the kernel then lets in."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from libs.common.rpc import packet_filter
from libs.common.rpc.shares import network_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs SO_ATTACH_FILTER of Linux")
_MANY_IPV4 = [f"10.0.{index // 250}.{index % 250 + 1}" for index in range(150)]
_MANY_IPV6 = [f"2001:db8:0:{index:x}::/64" for index in range(49)]


@pytest.fixture(params=["ipv4", "ipv6", "both"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    if request.param == "both":
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
            yield both
    else:
        family = socket.AF_INET if request.param == "ipv4" else socket.AF_INET6
        with socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family) as one:
            yield one


def _hosts(listener: socket.socket) -> list[str]:
    if listener.family == socket.AF_INET:
        return ["127.0.0.1"]
    return ["::1"] if listener.getsockname()[0] == "::1" else ["::1", "127.0.0.1"]


def _gets_in(listener: socket.socket, host: str, source: str = "") -> bool:
    address = (host, listener.getsockname()[1])
    try:
        with socket.create_connection(address, timeout=0.5, source_address=(source, 0) if source else None):
            return True
    except TimeoutError:
        return False


def test_an_address_is_blocked_and_then_not(listener: socket.socket) -> None:
    for host in _hosts(listener):
        packet_filter.block(listener, [network_of(host)])
        assert not _gets_in(listener, host)
        packet_filter.block(listener, [])
        assert _gets_in(listener, host)


def test_other_addresses_get_in(listener: socket.socket) -> None:
    packet_filter.block(listener, [*_MANY_IPV4, *_MANY_IPV6])
    assert all(_gets_in(listener, host) for host in _hosts(listener))


def test_the_last_of_many_is_blocked_too(listener: socket.socket) -> None:
    for host in _hosts(listener):
        packet_filter.block(listener, [*_MANY_IPV4, *_MANY_IPV6, network_of(host)])
        assert not _gets_in(listener, host)


def test_only_the_blocked_one_of_two_neighbours_is_kept_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        packet_filter.block(listener, ["127.0.0.2"])
        assert [_gets_in(listener, "127.0.0.1", source) for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3")] == [
            True,
            False,
            True,
        ]


def test_an_open_connection_goes_on(listener: socket.socket) -> None:
    host = _hosts(listener)[0]
    with ExitStack() as opened:
        client = opened.enter_context(socket.create_connection((host, listener.getsockname()[1])))
        server = opened.enter_context(listener.accept()[0])
        packet_filter.block(listener, [network_of(host)])
        client.sendall(b"x")
        assert server.recv(1) == b"x"


def test_more_than_the_most_are_left_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        many = [f"10.1.{index // 250}.{index % 250}" for index in range(packet_filter.MOST_ADDRESSES)]
        packet_filter.block(listener, [*many, "127.0.0.1"])
        assert _gets_in(listener, "127.0.0.1")
