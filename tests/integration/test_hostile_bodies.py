"""Small bodies that are much work: the answer is short, nobody else waits, and the memory stays what it was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import psutil
import pytest

from tests.conftest import StartStack
from tests.support.http import call
from tests.support.lag import late_turns
from tests.support.running import Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
_MIB = 1024**2
_ANSWER_BYTES = 64 * 1024
_GROWTH_BYTES = 150 * _MIB
_PATH = "/api/external/generation"


def _ones(count: int) -> str:
    return "[" + "1," * (count - 1) + "1]"


def _generation(**fields: str) -> bytes:
    """A request in JSON, of which these fields are written as they are given."""
    others = "".join(f',"{name}":{value}' for name, value in fields.items())
    return f'{{"modelIdentifier":"flux-pro","prompt":"x"{others}}}'.encode()


_UNKNOWN = {f"modelIdentif{index:05}": "1" for index in range(20_000)}
BODIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "20,000 unknown names": (_PATH, lambda: _generation(**_UNKNOWN)),
    "inputImages of 200,000": (_PATH, lambda: _generation(inputImages=_ones(200_000))),
    "inputImages of 1,000,000": (_PATH, lambda: _generation(inputImages=_ones(1_000_000))),
    "inputImages of 1,500,000": (_PATH, lambda: _generation(inputImages=_ones(1_500_000))),
    "a parameter of 300,000": (_PATH, lambda: _generation(parameters='{"x":' + _ones(300_000) + "}")),
    "inputs of 300,000 below /v1": (
        "/v1/images/generations", lambda: b'{"model":"flux-pro","prompt":"x","x":' + _ones(300_000).encode() + b"}",
    ),
    "a batch of 300,000": (f"{_PATH}/batch", lambda: b'{"requests":' + _ones(300_000).encode() + b"}"),
    "a line of 300,000": (f"{_PATH}/batch/upload", lambda: _generation(inputImages=_ones(300_000))),
    "16 MiB of brackets": (_PATH, lambda: b"[" * (16 * _MIB - 1)),
    "labels of 300,000": (_PATH, lambda: _generation(labels=json.dumps({f"k{n}": "" for n in range(300_000)}))),
}  # fmt: skip


@dataclass
class _Watched:
    """What happened to the gateway meanwhile. `late_turns`: how often its event loop was later than 0.2 s."""

    late_turns: float = 0.0
    growth_bytes: int = 0


async def _watched(running: Running, work: Callable[[], Awaitable[int]]) -> tuple[int, _Watched]:
    """What `work` answers, and what happened meanwhile."""
    process = psutil.Process(running.stack.children["gateway"].pid)
    before_bytes, before_turns = process.memory_info().rss, await late_turns(running, "gateway")
    found = _Watched()

    async def follow() -> None:
        while True:
            found.growth_bytes = max(found.growth_bytes, process.memory_info().rss - before_bytes)
            await asyncio.sleep(0.005)

    follower = asyncio.create_task(follow())
    try:
        size_bytes = await work()
    finally:
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower
    found.late_turns = await late_turns(running, "gateway") - before_turns
    return size_bytes, found


async def _twice(running: Running, name: str, work: Callable[[], Awaitable[int]]) -> None:
    """Do it once more if the event loop was late: the machine may have been busy with something else."""
    size_bytes, found = 0, _Watched()
    for _ in range(2):
        size_bytes, found = await _watched(running, work)
        print(f"{name}: answer {size_bytes} bytes, {found.growth_bytes / _MIB:.0f} MiB more, late {found.late_turns:g}")
        if not found.late_turns:
            break
    assert size_bytes <= _ANSWER_BYTES
    assert found.growth_bytes <= _GROWTH_BYTES
    assert found.late_turns == 0


@pytest.fixture
async def gateway(start_stack: StartStack) -> Running:
    return await start_stack(services=("gateway",))


async def test_bodies_over_http(gateway: Running) -> None:
    made = await gateway.new_key("acme")
    for name, (path, body) in BODIES.items():
        content = body()

        async def send(path: str = path, content: bytes = content) -> int:
            headers = {"content-type": "application/json"}
            reply = await call(gateway.gateway_url(), path, method="POST", key=made.key, data=content, headers=headers)
            assert reply.status in {400, 413}, reply
            return len(reply.body)

        await _twice(gateway, name, send)


_FORMS: dict[str, Callable[[], bytes]] = {
    "lines before the boundary": lambda: b"\n" * (15 * _MIB) + b"--b\r\n\r\n--b--\r\n",
    "lines behind another boundary": lambda: b"--c\r\n" + b"\r\n" * (7 * _MIB) + b"--b--\r\n",
    "lines behind a blank one": lambda: b"\r\n" * (7 * _MIB) + b"--b--\r\n",
    "lines in the head of a part": lambda: b"--b\r\n" + b"a: b\r\n" * (2 * _MIB) + b"\r\n--b--\r\n",
    "lines behind the end": lambda: b"--b--\r\n" + b"\r\n" * (7 * _MIB),
    "lines between parts": lambda: b"--b\r\n\r\n--b\r\n" + b"\n" * (14 * _MIB) + b"--b--\r\n",
}


@pytest.mark.parametrize("path", ["/admin/sign-in", "/v1/images/edits"])
async def test_forms(gateway: Running, path: str) -> None:
    made = await gateway.new_key("acme")
    headers = {"content-type": "multipart/form-data; boundary=b", "authorization": f"Bearer {made.key}"}
    for name, body in _FORMS.items():
        content = body()

        async def send(content: bytes = content) -> int:
            reply = await call(gateway.gateway_url(), path, method="POST", data=content, headers=headers)
            assert reply.status in {400, 403, 413}, reply
            return len(reply.body)

        await _twice(gateway, f"{path}: {name}", send)


_SERVICE = "/darkroom.gateway.v1.GenerationService"
_REQUEST = b"\x0a\x00"
"""The first field of a batch's request, and of a map: a message that is empty."""
MESSAGES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "input_images of 300,000": ("CreateGeneration", lambda: b"\x1a\x01a" * 300_000),
    "a batch of 8,000,000 empty requests": ("CreateBatch", lambda: _REQUEST * 8_000_000),
    "a batch of 400 requests with 20,000 values": ("CreateBatch", lambda: _message(_REQUEST * 20_000) * 400),
    "a batch of 1,000 requests with 800 values": ("CreateBatch", lambda: _message(_REQUEST * 800) * 1_000),
    "fields that nobody knows": ("CreateGeneration", lambda: b"\x98\x06\x01" * 5_000_000),
}


def _message(content: bytes) -> bytes:
    """The first field of a message, with that content."""
    size = len(content)
    return bytes([0x0A, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content


async def test_messages_over_grpc(gateway: Running) -> None:
    made = await gateway.new_key("acme")
    # Without a key it has no interceptors, which read requests.
    channel = gateway.channel_of("")
    for name, (method, message) in MESSAGES.items():
        made_call: Any = channel.unary_unary(f"{_SERVICE}/{method}")
        content = message()

        async def send(made_call: Any = made_call, content: bytes = content) -> int:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await made_call(content, timeout=60, metadata=[("authorization", f"Bearer {made.key}")])
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            return sum(len(key) + len(value) for key, value in caught.value.trailing_metadata() or ())

        await _twice(gateway, name, send)
