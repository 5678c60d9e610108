"""Requests that no client would write: each is refused in the right shape, and leaves no error behind."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import grpc
import pytest

from tests.conftest import StartStack
from tests.support.running import Running

_TRACES = re.compile(rb"(?i)python|aiohttp|traceback|brotli|stream removed|grpc")
_ROUTES = {
    "REST": ("POST", "/api/external/generation"),
    "OpenAI": ("POST", "/v1/images/generations"),
    "form": ("POST", "/v1/images/edits"),
    "batch": ("POST", "/api/external/generation/batch/upload"),
    "webhook": ("POST", "/api/webhooks/replicate"),
    "console": ("POST", "/admin/sign-in"),
}


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def _send(running: Running, raw: bytes) -> _Answer:
    """What the gateway answers to these bytes, on a connection of their own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.stack.plan.ports.gateway_http)
    try:
        writer.write(raw)
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
    finally:
        writer.close()
    return _Answer(int(head[0].split()[1]), headers, body)


def _request(running: Running, route: str, *headers: bytes, body: bytes = b"{}", key: bool = True) -> bytes:
    method, path = _ROUTES[route]
    lines = [f"{method} {path} HTTP/1.1".encode(), b"host: x", f"content-length: {len(body)}".encode(), *headers]
    if key:
        lines.append(f"authorization: Bearer {running.admin_key}".encode())
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _assert_is_refusal(answer: _Answer, route: str, statuses: set[int], *, case: object = None) -> None:
    assert answer.status in statuses, (case, answer)
    assert not _TRACES.search(answer.body + repr(answer.headers).encode()), answer
    if route in {"OpenAI", "form"}:
        assert set(json.loads(answer.body)["error"]) >= {"message", "type", "param", "code"}
    elif route in {"REST", "batch", "webhook"}:
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert json.loads(answer.body)["requestId"] == answer.headers["x-request-id"]


@pytest.fixture(autouse=True)
async def _no_error_is_stored(running: Running) -> AsyncIterator[None]:
    before = await _errors(running)
    yield
    assert await _errors(running) == before


async def _errors(running: Running) -> float:
    return await running.metric("gateway", "darkroom_log_lines_total", level="error")


@pytest.mark.parametrize("header", [b"x-api-key: ", b"authorization: Bearer "])
@pytest.mark.parametrize("route", ["REST", "OpenAI", "form", "batch"])
async def test_a_key_that_is_no_text_is_a_wrong_key(running: Running, route: str, header: bytes) -> None:
    for key in (b"\xff\xfe", b"\xc3\xa9", b"drk_\x80\x81\x82" * 20, b"\x7f" * 40):
        answer = await _send(running, _request(running, route, header + key, key=False))
        _assert_is_refusal(answer, route, {400, 401}, case=key)


@pytest.mark.parametrize("name", [b"x-request-id", b"idempotency-key", b"traceparent", b"user-agent", b"cookie",
                                  b"accept-language", b"last-event-id", b"origin", b"webhook-id"])  # fmt: skip
@pytest.mark.parametrize("route", _ROUTES)
async def test_a_header_that_is_no_text_is_refused(running: Running, route: str, name: bytes) -> None:
    answer = await _send(running, _request(running, route, name + b": \xff\xfe\xfd"))
    _assert_is_refusal(answer, route, {400, 401, 403, 404})


_ENCODINGS = (b"gzip", b"deflate", b"br", b"zstd", b"compress", b"gzip, gzip", b"\x01")
_KINDS = (b"application/json", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded")


@pytest.mark.parametrize(
    "body",
    [b"x=y", b"", gzip.compress(b"{}" * 100)[:-9], b"\x1f\x8b\x08\x00" + bytes(40)],
    ids=["text", "nothing", "gzip without its end", "gzip of nothing"],
)
@pytest.mark.parametrize("route", _ROUTES)
async def test_a_body_that_does_not_unpack_is_refused(running: Running, route: str, body: bytes) -> None:
    for encoding, kind in itertools.product(_ENCODINGS, _KINDS):
        headers = (b"content-encoding: " + encoding, b"content-type: " + kind)
        answer = await _send(running, _request(running, route, *headers, body=body))
        _assert_is_refusal(answer, route, {400, 401, 403, 404, 415, 422}, case=headers)
        assert answer.status == 415 or encoding not in {b"br", b"zstd"}, answer


_FORMS = (
    b"", b"--x", b"--x\r\n\r\n", b"--x\r\nfoo\r\n\r\ny\r\n--x--", b"\xff" * 99, b"--x\r\n" * 2_000,
    b'--x\r\ncontent-disposition: form-data; name="a"\r\ncontent-transfer-encoding: base64\r\n\r\n!\r\n--x--\r\n',
    b'--x\r\ncontent-disposition: form-data; name="a"\r\ncontent-type: text/plain; charset=nope\r\n\r\ny\r\n--x--\r\n',
    b'--x\r\ncontent-disposition: form-data; name="\xff"; filename*=utf-8\'\'%ff\r\n\r\n\r\n--x--\r\n',
)  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [b"multipart/form-data; boundary=x", b"multipart/form-data", b"multipart/mixed",
     b"application/x-www-form-urlencoded; charset=nope", b"multipart/form-data; boundary="],
)  # fmt: skip
@pytest.mark.parametrize("route", ["form", "console"])
async def test_a_form_that_is_none_is_refused(running: Running, route: str, kind: bytes) -> None:
    for body in _FORMS:
        answer = await _send(running, _request(running, route, b"content-type: " + kind, body=body))
        _assert_is_refusal(answer, route, {400, 403, 415}, case=body)


@pytest.mark.parametrize(
    "line",
    [b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"PROPFIND /api/health HTTP/1.1", b"BREW /v1/models HTTP/1.1",
     b"CONNECT x:1 HTTP/1.1", b"GET http:// HTTP/1.1", b"GET http://[ HTTP/1.1", b"GET //// HTTP/1.1",
     b"GET /\xff\xfe HTTP/1.1", b"GET /v1/models/%ff HTTP/1.1", b"GET /v1/%00 HTTP/1.1", b"TRACE / HTTP/1.1",
     b"GET /admin/static/..%2f..%2f/x HTTP/1.1", b"GET /api/external/generation/%F0%9F HTTP/1.1",
     b"FOO /v1/videos HTTP/1.1", b"GET /v1/" + b"x" * 9_000 + b" HTTP/1.1",
     b"GET / HTTP/3.7", b"GET /api/health", b"GET", b"\x16\x03\x01\x02\x00", b"GET /a b HTTP/1.1", b"get / HTTP/1.1"],
)  # fmt: skip
async def test_a_request_line_that_is_none_is_refused(running: Running, line: bytes) -> None:
    answer = await _send(running, line + b"\r\nhost: x\r\n\r\n")
    assert 400 <= answer.status < 500, answer
    assert not _TRACES.search(answer.body + repr(answer.headers).encode()), answer
    if b" /v1/" in line:
        assert set(json.loads(answer.body)["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize("route", ["form", "console"])
async def test_a_transfer_encoding_of_a_part_that_is_unknown_is_refused(running: Running, route: str) -> None:
    body = b'--x\r\ncontent-disposition: form-data; name="a"\r\ncontent-transfer-encoding: nope\r\n\r\ny\r\n--x--\r\n'
    answer = await _send(running, _request(running, route, b"content-type: multipart/form-data; boundary=x", body=body))
    _assert_is_refusal(answer, route, {400, 403})


@pytest.mark.parametrize("origin", [b"http://[", b"http://[::1", b"//[", b"null"])
async def test_an_origin_that_is_no_url_is_another_site(running: Running, origin: bytes) -> None:
    answer = await _send(running, _request(running, "console", b"origin: " + origin))
    assert (answer.status, answer.headers["content-type"]) == (403, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    "path", ["/admin/static/1/" + "e" * 300, "/admin/static/1/%00", "/admin/static/1/.", "/admin/static/x/a%0a"]
)
async def test_a_file_that_cannot_be_is_not_found(running: Running, path: str) -> None:
    assert (await _send(running, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())).status in {400, 404}


async def test_where_to_go_on_that_is_no_url_is_the_overview(running: Running) -> None:
    answer = await _send(running, b"GET /admin/sign-in?next=/admin//%5B HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.status == 200
    answer = await _send(running, b"GET /admin/sign-in?next=http://%5B HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.status == 200


@pytest.mark.parametrize("version", ["0.9", "1.2", "2.0", "9.9"])
async def test_another_version_of_http_is_refused(running: Running, version: str) -> None:
    answer = await _send(running, f"GET /api/health HTTP/{version}\r\nhost: x\r\n\r\n".encode())
    _assert_is_refusal(answer, "REST", {400})


async def test_a_form_with_too_many_fields_is_refused_on_a_page(running: Running) -> None:
    kind = b"content-type: application/x-www-form-urlencoded"
    answer = await _send(running, _request(running, "console", kind, body=b"&" * 5_000))
    assert (answer.status, answer.headers["content-type"]) == (413, "text/html; charset=utf-8")


@pytest.mark.parametrize("value", [b"\xff\xfe", b"nothing", b"200-ok"])
@pytest.mark.parametrize("path", ["/api/external/models", "/v1/models", "/nowhere", "/v1/nowhere"])
async def test_an_expectation_that_is_not_met_is_refused(running: Running, path: str, value: bytes) -> None:
    answer = await _send(running, f"GET {path} HTTP/1.1\r\nhost: x\r\nexpect: ".encode() + value + b"\r\n\r\n")
    _assert_is_refusal(answer, "OpenAI" if path.startswith("/v1/") else "REST", {400, 417})


async def test_a_body_that_turns_out_broken_after_its_answer_is_no_error(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.stack.plan.ports.gateway_http)
    head = _request(running, "REST", b"content-encoding: gzip", b"content-type: application/json", body=b"", key=False)
    writer.write(head.replace(b"content-length: 0", b"content-length: 40"))
    async with asyncio.timeout(20):
        assert b" 401 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x" * 40)
        await reader.read()
    writer.close()


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/models/x/y", "/v1/images/generations/1"])
async def test_unknown_paths_below_v1_are_told_as_openai_does(running: Running, path: str) -> None:
    answer = await _send(running, f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (404, "unknown_url")
    answer = await _send(running, b"PUT /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]


_TARGETS = {
    "HTTP/0.9": b"GET /api/health\r\n",
    "HTTP/0.9 below /v1": b"GET /v1/models HTTP/0.9\r\nhost: x\r\n",
    "a length and chunks": b"POST /api/external/generation HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
                           b"transfer-encoding: chunked\r\n",
    "two lengths": b"POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
    "chunks of an unknown kind": b"POST /v1/videos HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n",
    "chunked twice": b"POST /v1/videos HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n",
    "a length that is none": b"POST /api/webhooks/bfl HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n",
    "an expectation": b"POST /v1/videos HTTP/1.1\r\nhost: x\r\nexpect: weird\r\ncontent-length: 0\r\n",
    "an expectation of the console": b"POST /admin/sign-in HTTP/1.1\r\nhost: x\r\nexpect: ok\r\ncontent-length: 0\r\n",
    "an unknown path of another host": b"GET http://elsewhere.example/nothing HTTP/1.1\r\nhost: x\r\n",
    "CONNECT": b"CONNECT elsewhere.example:443 HTTP/1.1\r\nhost: x\r\n",
    "CONNECT of a path": b"CONNECT /v1/models HTTP/1.1\r\nhost: x\r\n",
    "TRACE": b"TRACE /v1/models HTTP/1.1\r\nhost: x\r\n",
    "OPTIONS of everything": b"OPTIONS * HTTP/1.1\r\nhost: x\r\n",
    "OPTIONS below /v1": b"OPTIONS /v1/models HTTP/1.1\r\nhost: x\r\n",
    "half an escape": b"GET /v1/videos/% HTTP/1.1\r\nhost: x\r\n",
    "an escape that is none": b"GET /api/external/generation/%zz HTTP/1.1\r\nhost: x\r\n",
    "an escaped escape": b"GET /admin/generations/%25%00 HTTP/1.1\r\nhost: x\r\ncookie: darkroom_session=x\r\n",
    "a space in the path": b"GET /v1/videos/a b HTTP/1.1\r\nhost: x\r\n",
    "the console's rest": b"PUT /admin/nothing HTTP/1.1\r\nhost: x\r\ncookie: darkroom_session=%ff\r\n",
    "a webhook by GET": b"GET /api/webhooks/bfl HTTP/1.1\r\nhost: x\r\n",
    "a webhook of nobody": b"POST /api/webhooks/%ff HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n",
}  # fmt: skip


@pytest.mark.parametrize("head", _TARGETS.values(), ids=_TARGETS)
async def test_a_request_that_no_route_takes_is_refused(running: Running, head: bytes) -> None:
    answer = await _send(running, head + b"\r\n")
    assert 300 <= answer.status < 500, answer
    assert not _TRACES.search(answer.body + repr(answer.headers).encode()), answer
    if answer.status < 400 or b"/admin" in head:
        return
    if b" /v1/" not in head or head.startswith(b"CONNECT"):
        assert answer.headers["content-type"].startswith("application/problem+json")
    else:
        assert set(json.loads(answer.body)["error"]) >= {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "query",
    [b"?\xff=1", b"?status=\xff\xfe", b"?%ff=%fe", b"?status=%ed%a0%80", b"?a=%", b"?" + b"a=1&" * 3_000, b"?=",
     b"?&&&", b"?status=%00", b"?labels[%ff]=1", b"?labels[a]=%ff", b"?[]=1", b"?" + b"[" * 500],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/external/generation", "/v1/models", "/admin/generations"])
async def test_a_query_that_is_none_is_refused(running: Running, path: str, query: bytes) -> None:
    head = f"GET {path}".encode() + query + b" HTTP/1.1\r\nhost: x\r\n"
    answer = await _send(running, head + f"authorization: Bearer {running.admin_key}\r\n\r\n".encode())
    allowed = {200, 303, 400} if path.startswith("/admin") or query in {b"?&&&", b"?status=%00"} else {400}
    assert answer.status in allowed, answer
    assert not _TRACES.search(answer.body) or answer.status != 400, answer


@pytest.mark.parametrize(
    "headers",
    [(b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAAP__"),
     (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13", b"sec-websocket-key: x"),
     (b"connection: upgrade", b"upgrade: TLS/1.0"),
     (b"accept-encoding: gzip;q=0, *;q=abc",), (b"accept-encoding: " + b"gzip," * 1_000,), (b"accept-encoding: \x01",),
     (b"accept-encoding: identity;q=0, *;q=0",), (b"te: trailers, deflate;q=2",), (b"range: bytes=5-1",),
     (b'if-none-match: "',), (b"if-modified-since: yesterday",), (b"cookie: ;;;=",), (b"host: y",)],
    ids=lambda headers: headers[0][:30].decode(errors="replace"),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/api/external/models", "/v1/models", "/admin/sign-in"])
async def test_headers_that_mean_nothing_here_change_nothing(
    running: Running, path: str, headers: tuple[bytes, ...]
) -> None:
    key = f"authorization: Bearer {running.admin_key}".encode()
    head = b"\r\n".join([f"GET {path} HTTP/1.1".encode(), b"host: x", b"connection: close", key, *headers])
    answer = await _send(running, head + b"\r\n\r\n")
    assert answer.status in {200, 400}, answer
    assert "upgrade" not in answer.headers


@pytest.mark.parametrize("route", ["REST", "batch", "OpenAI"])
async def test_600_faults_are_told_as_faults(running: Running, route: str) -> None:
    unknown: dict[str, Any] = {f"extra{number}": number for number in range(600)}
    body = {"modelIdentifier": "flux-pro", "prompt": "x", "inputImages": ["bad"] * 600}
    if route == "OpenAI":
        body = {"model": "flux-pro", "prompt": "x", **unknown}
    content = json.dumps(body).encode()
    answer = await _send(running, _request(running, route, b"content-type: application/json", body=content))
    _assert_is_refusal(answer, route, {400})
    assert len(answer.body) < 64_000


async def test_600_faults_are_told_as_faults_over_grpc(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.create("flux-pro", "x", input_images=["bad"] * 600)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not _TRACES.search((caught.value.details() or "").encode())


@pytest.mark.slow
async def test_wrong_keys_are_delayed_on_every_path(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_WRONG_KEY_DELAY_SECONDS": "0.3"})
    paths = ("/api/external/models", "/api/metrics", "/v1/models?a=b", "/v1/videos/x/content?variant=thumbnail",
             "/api/external/generation/batch/x/export?format=tar")  # fmt: skip
    for number, path in enumerate((paths[0],) * 12 + paths):
        began = monotonic()
        answer = await _send(running, f"GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: drk_wrong\r\n\r\n".encode())
        # From the sixth of an address on each waits longer.
        assert (answer.status, number < 12 or monotonic() - began > 0.25) == (401, True), path
