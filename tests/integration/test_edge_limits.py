"""Strangers at the door: those who dawdle, those who come in crowds, those who send nonsense."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, closing, suppress
from time import monotonic
from typing import Any

import grpc
import pytest
from darkroom.gateway.v1 import gateway_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from libs.common.rpc.words import descriptor_of
from sandbox.launcher import Stack
from tests.conftest import StartStack
from tests.contract.test_protos import FILES
from tests.integration.test_isolation import GATEWAY
from tests.support.http import call
from tests.support.running import Running
from tests.support.waiting import eventually

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _connect(running: Running) -> Connection:
    return await asyncio.open_connection("127.0.0.1", running.stack.plan.ports.gateway_http)


async def _is_cut_off(connection: Connection, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await connection[0].read(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    finally:
        connection[1].close()


async def test_who_dawdles_over_headers_or_body_is_cut_off(start_stack: StartStack) -> None:
    quick = {"DARKROOM_HTTP_HEADER_TIMEOUT_SECONDS": "0.5", "DARKROOM_HTTP_BODY_TIMEOUT_SECONDS": "0.5"}
    running = await start_stack(services=("gateway",), settings=quick)
    silent, slow, empty = [await _connect(running) for _ in range(3)]
    slow[1].write(b"GET /api/health HTTP/1.1\r\nhost: x\r\nx-a: ")
    # Lines before the request, which it may have.
    empty[1].write(b"\r\n\r\n")
    began = monotonic()
    assert all(await asyncio.gather(*(_is_cut_off(one, 5) for one in (silent, slow, empty))))
    assert monotonic() - began < 3

    head = f"POST /api/external/generation HTTP/1.1\r\nhost: x\r\nx-api-key: {running.admin_key}\r\n"
    reader, writer = await _connect(running)
    with closing(writer):
        writer.write(f"{head}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{".encode())
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    assert await running.metric("gateway", "darkroom_http_connections_cut_off_total", reason="slow") >= 3


async def test_who_takes_nothing_of_an_answer_is_cut_off(start_stack: StartStack) -> None:
    quick = {"DARKROOM_WATCH_WRITE_TIMEOUT_SECONDS": "0.5"}
    running = await start_stack(services=("gateway",), settings=quick)
    reader, writer = await _connect_narrow(running)
    slow_reader, slow_writer = await _connect_narrow(running)
    with closing(writer), closing(slow_writer):
        for each in (writer, slow_writer):
            each.write(b"GET /api/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        taken = 0
        for _ in range(20):
            await asyncio.sleep(0.1)
            taken += len(await slow_reader.read(16_384))
        assert await running.metric("gateway", "darkroom_http_connections_cut_off_total", reason="unread") == 1
        assert taken > 50_000
        async with asyncio.timeout(5):
            with suppress(ConnectionResetError):
                await reader.read(-1)
        assert await slow_reader.read(1)


async def _connect_narrow(running: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose kernel takes little of what nobody reads."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    narrow.setblocking(False)
    port = running.stack.plan.ports.gateway_http
    await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=narrow, limit=1_024)


async def test_headers_are_bounded(running: Running) -> None:
    for name, value in (("x-a", "y" * 20_000), ("x-request-id", "y" * 9_000)):
        reader, writer = await _connect(running)
        with closing(writer):
            writer.write(f"GET /api/health HTTP/1.1\r\nhost: x\r\n{name}: {value}\r\n\r\n".encode())
            async with asyncio.timeout(5):
                assert b" 400 " in await reader.readline()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.gateway.ListModels(
            gateway_pb2.ListModelsRequest(), metadata=(("x-a", "y" * 200_000),), timeout=60
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_connections_are_bounded(start_stack: StartStack) -> None:
    running = await start_stack(services=("gateway",), settings={"DARKROOM_HTTP_CONNECTIONS": "5"})
    with ExitStack() as held:
        for _ in range(5):
            _, writer = await _connect(running)
            head = f"POST /api/external/generation HTTP/1.1\r\nhost: x\r\nx-api-key: {running.admin_key}\r\n"
            held.enter_context(closing(writer)).write(f"{head}content-length: 100\r\n\r\n".encode())

        async def in_progress() -> bool:
            return await running.metric("gateway", "darkroom_shares_held", kind="http_requests") == 5

        await eventually(in_progress, within=5, what="five requests wait for their bodies")
        assert await _is_cut_off(await _connect(running), 5)


async def test_messages_are_bounded(running: Running) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.create("flux-pro", "x", input_images=["http://a/" + "b" * (17 * 1024**2)])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await call(running.gateway_url(), "/api/health")).status == 200


METHODS = [method for service in GATEWAY for method in FILES[service].services_by_name[service].methods]
EXPECTED = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED,
}  # fmt: skip


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["\x00", "flux-pro", "gen_x", "%", "a" * 300]
)
NUMBERS = {
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 9),
    FieldDescriptor.CPPTYPE_STRING: TEXTS,
}


def _filled(draw: st.DrawFn, kind: type[Message], depth: int = 0) -> Message:
    """A message with some of its fields set to anything that their types can hold."""
    message = kind()
    for field in descriptor_of(message).fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is None:
            value = draw(st.lists(NUMBERS[field.cpp_type], max_size=2)) if field.is_repeated else None
            if value is None:
                of_type = st.binary(max_size=50) if field.type == field.TYPE_BYTES else NUMBERS[field.cpp_type]
                setattr(message, field.name, draw(of_type))
            else:
                getattr(message, field.name).extend(value)
        elif field.message_type.full_name == "google.protobuf.Struct":
            getattr(message, field.name).update(
                draw(st.dictionaries(TEXTS, st.none() | st.floats() | TEXTS, max_size=2))
            )
        elif field.message_type.GetOptions().map_entry:
            getattr(message, field.name).update(draw(st.dictionaries(TEXTS, TEXTS, max_size=2)))
        elif depth < 2:
            inner = _filled(draw, GetMessageClass(field.message_type), depth + 1)
            target = getattr(message, field.name)
            if field.is_repeated:
                target.append(inner)
            else:
                target.CopyFrom(inner)
    return message


@st.composite
def anything(draw: st.DrawFn) -> tuple[Any, bytes]:
    """A method, and a request that is a message of its, or mere bytes."""
    method = draw(st.sampled_from(METHODS))
    if draw(st.integers(0, 9)) == 0:
        return method, draw(st.binary(max_size=50))
    return method, _filled(draw, GetMessageClass(method.input_type)).SerializeToString()


@given(sent=anything())
def test_whatever_comes_over_grpc_has_a_clear_answer(lasting_stack: Stack, sent: tuple[Any, bytes]) -> None:
    method, request = sent
    with grpc.insecure_channel(f"127.0.0.1:{lasting_stack.plan.ports.grpc['gateway']}") as channel:
        make: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
        path = f"/{method.containing_service.full_name}/{method.name}"
        call = make(path, request_serializer=bytes, response_deserializer=bytes)
        try:
            answer = call(request, metadata=(("x-api-key", lasting_stack.admin_key),), timeout=60)
            if method.server_streaming:
                next(answer)
                answer.cancel()
            status = grpc.StatusCode.OK
        except grpc.RpcError as error:
            status = error.code()
    assert status in EXPECTED, path


async def test_afterwards_it_still_serves_and_nothing_failed_inside(running: Running) -> None:
    assert (await call(running.gateway_url(), "/api/health")).status == 200
    assert await running.failed_handlers() == 0
