"""Shares: counted, refused beyond a limit, given back; and what counts as one address."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from libs.common.errors import ErrorCode, GenerationError
from libs.common.rpc.shares import Holder, Limits, Shares, network_of, network_of_peer


def _taken(shares: Shares, holder: Holder) -> bool:
    try:
        shares.take(holder)
    except GenerationError as error:
        assert (error.code, error.is_retryable) == (ErrorCode.RATE_LIMITED, True)
        assert error.retry_after_seconds
        return False
    return True


def test_what_is_beyond_a_limit_is_refused_until_something_is_given_back() -> None:
    shares = Shares(what="streams", limits=Limits(total=4, address=3, key=1, owner=2))
    first = Holder("192.0.2.1", "key_a", "acme")
    assert _taken(shares, first)
    assert not _taken(shares, first._replace(address="192.0.2.2")), "the key's"
    assert _taken(shares, first._replace(key="key_b"))
    assert not _taken(shares, first._replace(key="key_c")), "the owner's"
    assert _taken(shares, Holder("192.0.2.1", "key_d", "umbrella"))
    assert not _taken(shares, Holder("192.0.2.1", "key_e", "initech")), "the address's"
    assert _taken(shares, Holder("192.0.2.2", "key_e", "initech"))
    assert not _taken(shares, Holder("192.0.2.3", "key_f", "hooli")), "all"
    shares.give_back(first)
    assert _taken(shares, first)


def test_who_holds_most_is_logged_once_in_a_while() -> None:
    shares = Shares(what="streams", limits=Limits(total=3, key=3))
    for key in ("key_a", "key_b", "key_b"):
        assert _taken(shares, Holder(key=key))
    with capture_logs() as lines:
        assert not any(_taken(shares, Holder(key="key_c")) for _ in range(10))
    (line,) = lines
    assert line["most"] == [
        {"share": "key", "holder": name, "held": held} for name, held in (("key_b", 2), ("key_a", 1))
    ]


def test_nothing_is_kept_of_who_holds_nothing() -> None:
    shares = Shares(what="streams", limits=Limits(address=2, key=2, owner=2))
    holders = [Holder(f"192.0.2.{number}", f"key_{number}", "acme") for number in range(2)]
    for holder in holders:
        shares.take(holder)
    for holder in holders:
        shares.give_back(holder)
    assert (shares.total, shares.holders) == (0, 0)


def test_without_limits_nothing_is_refused() -> None:
    shares = Shares()
    assert all(_taken(shares, Holder("192.0.2.1", "key_a", "acme")) for _ in range(10_000))


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("somewhere", "somewhere"),
    ],
)
def test_ipv6_addresses_count_by_their_network(host: str, network: str) -> None:
    assert network_of(host) == network


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8:1:2:3::1%5D:5000", "2001:db8:1:2::/64"),
        ("ipv6:[::1]:5000", "::/64"),
        ("unix:/somewhere/own.sock", "unix:/somewhere/own.sock"),
    ],
)
def test_peers_count_as_hosts_do(peer: str, network: str) -> None:
    assert network_of_peer(peer) == network
