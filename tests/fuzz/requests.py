"""HTTP requests as bytes, and what is done to them on their way that no client library would do."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field, replace
from random import Random
from urllib.parse import quote

from tests.fuzz.values import TEXTS

Headers = list[tuple[bytes, bytes]]
_METHODS = (
    b"GET",
    b"HEAD",
    b"POST",
    b"PUT",
    b"PATCH",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"PROPFIND",
    b"BREW",
    b"get",
    b"CONNECT",
    b"QUERY",
    b"X" * 300,
)
_TYPES = (
    b"application/json", b"application/json; charset=utf-16", b"application/json; charset=nope", b"text/plain",
    b"text/xml", b"", b";", b"application/json;=",
    b"multipart/form-data", b"multipart/form-data; boundary=", b'multipart/form-data; boundary="',
    b"application/x-www-form-urlencoded", b"application/grpc",
    b"application/problem+json", b"\xff/\xff", b"a" * 3_000, b"application/json, application/json", b"image/png",
)  # fmt: skip
_HEADER_VALUES = (
    b"", b" ", b"\xff\xfe", b"\xc3\xa9", b"a" * 7_000, b"0", b"-1", b"1" * 40, b"*", b"null", b"bytes=0-",
    b"bytes=5-1", b'W/"x"', b'"', b",,,,", b";;=", b"\x7f", b"a\tb",
    b"Thu, 99 Foo 2026 99:99:99 GMT", b"00-" + b"f" * 32 + b"-" + b"0" * 16 + b"-zz", b"%00", b"=?utf-8?b?/w==?=",
    b"text/event-stream", b"gzip;q=nan", b"en;q=9,*", b'x="; y',
)  # fmt: skip
_HEADER_NAMES = (
    b"accept", b"accept-encoding", b"accept-language", b"content-encoding", b"content-type", b"content-language",
    b"cookie", b"origin", b"referer", b"host", b"range",
    b"if-none-match", b"if-modified-since", b"idempotency-key", b"x-request-id", b"traceparent", b"tracestate",
    b"baggage", b"last-event-id", b"expect", b"te", b"trailer",
    b"upgrade", b"connection", b"x-forwarded-for", b"forwarded", b"x-http-method-override", b"user-agent",
    b"openai-beta", b"x-stainless-retry-count", b"authorization",
    b"x-api-key", b"sec-fetch-site", b"access-control-request-method", b"access-control-request-headers",
    b"grpc-timeout", b"x-fuzz", b"content-md5", b"date", b"priority",
)  # fmt: skip
_BOMB = gzip.compress(b" " * 40_000_000)
_MANY_HEADERS = b"".join(b"x-%d: y\r\n" % number for number in range(5_000))


@dataclass(frozen=True)
class Request:
    """A request before it is written."""

    method: bytes
    path: str
    headers: Headers
    body: bytes = b""
    query: list[tuple[str, str]] = field(default_factory=list)
    target: bytes = b""
    version: bytes = b"HTTP/1.1"

    def written(self) -> bytes:
        """Its bytes, with the length of its body."""
        target = self.target or self.path.encode() + _query(self.query)
        lines = [self.method + b" " + target + b" " + self.version]
        names = {name for name, _ in self.headers}
        lines += [b"host: fuzz"] if b"host" not in names else []
        lines += [name + b": " + value for name, value in self.headers]
        if (
            (self.body or self.method not in {b"GET", b"HEAD"})
            and b"content-length" not in names
            and b"transfer-encoding" not in names
        ):
            lines.append(b"content-length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


@dataclass(frozen=True)
class Sent:
    """Bytes to be sent.

    Args:
        raw: the bytes.
        must_answer: whether an answer must come; otherwise the connection may just be closed.
        method: what the answer is to, for answers without a body.
        is_odd: whether the bytes may not be HTTP, so that the answer may be that of the parser.
    """

    raw: bytes
    must_answer: bool = True
    method: bytes = b"GET"
    is_odd: bool = False


def value_of_header(random: Random) -> bytes:
    """An odd value."""
    return random.choice(_HEADER_VALUES)


def segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text.encode(errors="surrogatepass"), safe="")


def sent(request: Request, random: Random) -> Sent:
    """The request as it goes out: in six of ten cases as it is."""
    kind = random.random()
    if kind < 0.6:
        return Sent(request.written(), method=request.method)
    if kind < 0.85:
        request = _odd_request(request, random)
        return Sent(request.written(), method=request.method, is_odd=True)
    if kind < 0.93:
        return Sent(_odd_target(request, random).written(), method=request.method, is_odd=True)
    return _odd_framing(request, random)


def _query(pairs: list[tuple[str, str]]) -> bytes:
    if not pairs:
        return b""
    return b"?" + "&".join(f"{segment(name)}={segment(value)}" for name, value in pairs).encode()


def _odd_request(request: Request, random: Random) -> Request:
    choice = random.randrange(6)
    if choice == 0:
        return replace(request, method=random.choice(_METHODS))
    if choice == 1:
        others = [pair for pair in request.headers if pair[0] != b"content-type"]
        return replace(request, headers=[*others, (b"content-type", random.choice(_TYPES))])
    if choice == 2:
        return _packed(request, random)
    count = random.choice((1, 1, 2, 3, 60))
    odd = [(random.choice(_HEADER_NAMES), random.choice(_HEADER_VALUES)) for _ in range(count)]
    return replace(request, headers=[*request.headers, *odd])


def _packed(request: Request, random: Random) -> Request:
    encoding, body = random.choice(
        (
            (b"gzip", gzip.compress(request.body, 1)), (b"deflate", zlib.compress(request.body, 1)),
            (b"gzip", request.body), (b"br", request.body),
            (b"gzip", gzip.compress(request.body, 1)[:-5]), (b"gzip", _BOMB),
            (b"gzip, gzip", gzip.compress(request.body, 1)),
            (b"GZIP", gzip.compress(request.body, 1)), (b"zstd", b"\x28\xb5\x2f\xfd"), (b"identity", request.body),
            (b"x-gzip", gzip.compress(request.body, 1)),
        )
    )  # fmt: skip
    return replace(request, headers=[*request.headers, (b"content-encoding", encoding)], body=body)


def _odd_target(request: Request, random: Random) -> Request:
    path, text = request.path, random.choice(TEXTS)
    target = random.choice(
        (
            path + "/", path + "//", path.replace("/", "//"), path + "/../..", path + "/%2e%2e%2f", path + "?",
            path + "?&&&==", path + "#x", path.upper(),
            path + "/" + segment(text), path + "?" + segment(text), path + "?a=" + segment(text),
            path + "?" + "&".join(f"k{n}=1" for n in range(900)),
            path + ";x=y", path + "%", path + "%zz", path + "%00", path + "%ff%fe", path + "%ed%a0%80",
            path + "?pageSize=1&pageSize=2", "*", "", "x",
            "http://elsewhere" + path, "http://[" + path, "//elsewhere" + path, path + "?x=%ff",
            path + "?" + "a" * 7_000, path + " x", path + "\x01",
        )
    )  # fmt: skip
    return replace(request, target=target.encode(errors="surrogatepass") or b"/")


def _odd_framing(request: Request, random: Random) -> Sent:
    raw, method = request.written(), request.method
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"content-length")]
    bare = b"\r\n".join(lines)
    chunked = bare + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % len(body) + body + b"\r\n" if body else b""
    options = (
        (raw[: random.randrange(1, len(raw))], False),
        (raw.replace(b"HTTP/1.1", random.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9", b"HTTQ/1.1", b"http/1.1", b"")), 1), False),
        (chunked + chunk + b"0\r\n\r\n", True),
        (chunked + chunk, False),
        (chunked + b"zz\r\n" + body, False),
        (chunked + b"1;x=\xff\r\na\r\n" + b"0\r\nx: y\r\n\r\n", False),
        (chunked + b"ffffffffffffffffff\r\n", False),
        (bare + b"\r\ncontent-length: 10\r\ncontent-length: 20\r\n\r\n" + body, False),
        (bare + b"\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (bare + b"\r\ncontent-length: " + random.choice((b"-1", b"x", b"1e3", b"9" * 30, b"", b"+5")) + b"\r\n\r\n" + body, False),
        (bare + b"\r\n folded: x\r\n\r\n", False),
        (bare + b"\r\n" + random.choice((b"no colon", b": x", b"a b: c", b"\x00: x", b"x: a\x00b", b"x: a\rb", b"\xff: 1")) + b"\r\n\r\n", False),
        (bare + b"\r\n" + _MANY_HEADERS + b"\r\n", False),
        (raw.replace(b"\r\n", b"\n"), False),
        (raw + raw.replace(b"/api", b"/nope"), False),
        (bytes(random.randrange(256) for _ in range(200)), False),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), False),
        (bare + b"\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body) + body, True),
    )  # fmt: skip
    chosen, must_answer = random.choice(options)
    return Sent(chosen, must_answer=must_answer, method=method, is_odd=True)
