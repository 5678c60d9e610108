from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError
from yarl import URL

from libs.common.errors import GenerationError
from libs.common.hosts import host_of, is_listed, url_as_written
from libs.common.storage.addresses import GuardedResolver, check_url, is_public
from libs.common.validation.common import CallbackUrl


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b:1::7f00:1", False),
        ("fec0::1", False),
        ("5f00::1", False),
        ("100::1", False),
        ("2001:db8::1", False),
        ("192.0.0.8", False),
        ("192.88.99.1", False),
        ("198.18.0.1", False),
        ("203.0.113.4", False),
        ("240.0.0.1", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://127.1/x",
        "http://2130706433/x",
        "http://0x7f000001/x",
        "http://0177.0.0.1/x",
        "http://[::1]/x",
        "http://[::ffff:169.254.169.254]/latest/meta-data",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://example.com/x",
        "gopher://example.com",
        "/relative",
        "http:///x",
    ],
)
def test_urls_that_lead_inside_are_refused(url: str) -> None:
    with pytest.raises(GenerationError, match="refused"):
        check_url(URL(url), ())


def _passes(url: str, hosts: tuple[str, ...]) -> bool:
    try:
        check_url(URL(url), hosts)
    except GenerationError:
        return False
    return True


@pytest.mark.parametrize("url", ["https://delivery.example.com/1.png", "http://93.184.216.34/1.png"])
def test_urls_that_lead_outside_pass(url: str) -> None:
    assert _passes(url, ())


def test_a_listed_host_may_be_inside() -> None:
    assert _passes("http://127.0.0.1:9100/x", ("127.0.0.1",))
    assert not _passes("http://127.0.0.2:9100/x", ("127.0.0.1",))


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("api.bfl.ai", True),
        ("API.BFL.AI.", True),
        ("a.b.bfl.ai", True),
        ("bfl.ai", False),
        ("evilbfl.ai", False),
        ("bfl.ai.evil.com", False),
        ("exact.example.com", True),
        ("x.exact.example.com", False),
    ],
)
def test_a_leading_dot_stands_for_all_below(host: str, listed: bool) -> None:
    assert is_listed(host, (".bfl.ai", "exact.example.com")) is listed


async def test_a_name_that_leads_inside_is_refused_when_it_is_resolved() -> None:
    resolver = GuardedResolver(())
    with pytest.raises(GenerationError, match="not public"):
        await resolver.resolve("localhost", 80)
    await resolver.close()


async def test_a_listed_name_may_lead_inside() -> None:
    resolver = GuardedResolver(("localhost",))
    assert [found["host"] for found in await resolver.resolve("localhost", 80)]
    await resolver.close()


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example/b%28x%29%2C.png?sig=a%2Fb%3Ac%2Ce%7E",
        "https://a.example/x.png?X-Amz-Credential=AK%2F20261129%2Fus&X-Amz-Signature=0%2b",
        "https://a.example:8443/x%20y?z=%C3%A4",
    ],
)
def test_a_signed_url_is_asked_as_it_is_written(text: str) -> None:
    assert str(url_as_written(text)) == text
    assert url_as_written(f" {text}\n").raw_path_qs == text.partition("a.example")[2].removeprefix(":8443")


@pytest.mark.parametrize("text", ["http://xn--/", "http://xn--a.xn--/x"])
def test_a_host_that_is_no_name_is_nobodys(text: str) -> None:
    url = url_as_written(text)
    assert host_of(url) == ""
    assert str(url) == text
    with pytest.raises(GenerationError):
        check_url(url, ["xn--", ".example.com"])
    with pytest.raises(ValidationError, match=r"must be an http\(s\) URL"):
        TypeAdapter(CallbackUrl).validate_python(text)


def test_what_is_no_url_by_its_characters_is_escaped() -> None:
    assert str(url_as_written("https://a.example/an owl.png")) == "https://a.example/an%20owl.png"
    assert url_as_written("https://ex\u00e4mple.com/").raw_host == "xn--exmple-cua.com"


@pytest.mark.parametrize("text", ["http://127.0.0.1%2f@a.example/x", "http://a.example%00.b/", "http://[::1]%25x/"])
def test_a_host_that_two_ways_of_reading_tell_apart_is_not_asked_as_written(text: str) -> None:
    try:
        plain, asked = URL(text), url_as_written(text)
    except ValueError:
        return
    assert (asked.host, asked.port) == (plain.host, plain.port)
