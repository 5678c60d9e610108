"""Connections to a port of gRPC: too many are closed, the longest idle first, and those that send too much."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.rpc.callers import Callers
from libs.common.rpc.connection_watch import ConnectionWatch
from libs.common.rpc.interceptors import Before, Call
from libs.common.rpc.keyless_limits import KEYLESS_BYTES
from libs.common.rpc.open_streams import OpenStreams
from libs.common.rpc.server import make_server, server_options
from libs.common.rpc.shares import Holder, Limits, hold_as
from libs.common.rpc.sharing import Sharing
from libs.common.rpc.standard import standard
from libs.common.settings import Settings
from sandbox.processes import free_port
from tests.fuzz import frames
from tests.support.ports import can_connect
from tests.support.servicers import serve_log_error

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs TCP_INFO of Linux")
_ALONE = (("grpc.use_local_subchannel_pool", 1),)
_REQUEST = monitor_pb2.LogErrorRequest()


class _ByKey(Before):
    async def before(self, call: Call) -> None:
        """Takes the key that comes with a call for true."""
        metadata: Any = call.context.invocation_metadata()
        key = dict(metadata).get("x-api-key", "")
        if not key:
            await call.context.abort(grpc.StatusCode.UNAUTHENTICATED)
        hold_as(key=key, owner=key[:1])


async def _lasting(request: Any, context: Any) -> monitor_pb2.LogErrorResponse:
    """Last as long as the metadata says."""
    del request
    await asyncio.sleep(float(dict(context.invocation_metadata()).get("x-seconds", "0")))
    return monitor_pb2.LogErrorResponse()


class _Watched:
    """A server, and a `ConnectionWatch` of its port that scans only when a test calls it."""

    def __init__(self, port: int, limits: Limits, callers: Callers, probe_ports: tuple[int, ...]) -> None:
        settings = Settings(database_url="postgresql://nowhere")
        self.port = port
        self.callers = callers
        self.watch = ConnectionWatch({port: limits}, callers, settings.grpc_message_limit_bytes, probe_ports)
        self._open = AsyncExitStack()

    async def connected(self) -> asyncio.StreamReader:
        """A connection that sends the beginning of HTTP/2 alone; it ends when the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.callback(writer.close)
        writer.write(frames.unfinished(0)[:33])
        await reader.readexactly(9)
        return reader

    async def sending(self, content: bytes) -> asyncio.StreamReader:
        """A connection that has sent this."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.callback(writer.close)
        writer.write(content)
        await writer.drain()
        return reader

    async def caller(self, key: str) -> Any:
        """A client with a connection of its own, which has made a call."""
        channel = await self._open.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", _ALONE))
        call = _calling(channel, key)
        await call()
        return call

    async def scan_until_old(self) -> None:
        """Scan until the limits of connections hold for those that there are."""
        for _ in range(7):
            await asyncio.sleep(0.1)
            self.watch.scan()

    async def is_reset_by_scans(self, reader: asyncio.StreamReader) -> bool:
        """Whether a scan of the next seconds resets a connection whose data may still be on its way."""
        for _ in range(10):
            self.watch.scan()
            if await _ended([reader]) == [True]:
                return True
        return False

    async def close(self) -> None:
        """End all connections."""
        await self._open.aclose()


def _calling(channel: grpc.aio.Channel, key: str) -> Any:
    async def call(seconds: float = 0.0, request: Any = _REQUEST) -> Any:
        metadata = (("x-api-key", key), ("x-seconds", str(seconds)))
        return await MonitorServiceStub(channel).LogError(request, metadata=metadata, timeout=60)

    return call


@asynccontextmanager
async def _watched(limits: Limits, *, is_for_probes: bool = False) -> AsyncIterator[_Watched]:
    callers, settings = Callers(), Settings(database_url="postgresql://nowhere")
    interceptors = standard(
        _ByKey(),
        rpc_timeout_seconds=10,
        write_timeout_seconds=10,
        sharing=Sharing.of_callers(settings, OpenStreams(), callers),
    )
    options = server_options(settings, is_bounded=True)
    server = make_server(interceptors=interceptors, maximum_concurrent_rpcs=None, options=options)
    port = serve_log_error(server, _lasting)
    await server.start()
    watched = _Watched(port, limits, callers, (port,) if is_for_probes else ())
    try:
        yield watched
    finally:
        await watched.close()
        await server.stop(None)


async def _ended(readers: list[asyncio.StreamReader]) -> list[bool]:
    """Which of them the server has closed, a moment later."""

    async def has_ended(reader: asyncio.StreamReader) -> bool:
        try:
            async with asyncio.timeout(0.5):
                while await reader.read(65_536):
                    pass
        except TimeoutError:
            return False
        except ConnectionResetError:
            pass
        return True

    return list(await asyncio.gather(*(has_ended(reader) for reader in readers)))


async def test_the_longest_idle_make_room() -> None:
    async with _watched(Limits(total=5, address=3)) as watched:
        readers = []
        for _ in range(5):
            readers.append(await watched.connected())
            await asyncio.sleep(0.02)
        watched.watch.scan()
        assert await _ended(readers) == [True, True, False, False, False]
        watched.watch.scan()
        assert await _ended(readers[2:]) == [False, False, False]


async def test_a_connection_with_a_call_in_progress_outlives_idle_ones() -> None:
    async with _watched(Limits(address=2)) as watched:
        call = await watched.caller("one")
        under_way = asyncio.create_task(call(1.5))
        await asyncio.sleep(0.2)
        readers = [await watched.connected() for _ in range(3)]
        watched.watch.scan()
        assert (await _ended(readers)).count(True) == 2
        await under_way


async def test_keys_and_owners_have_shares_of_their_own() -> None:
    async with _watched(Limits(key=1, owner=2)) as watched:
        callers = []
        for key in ("a1", "a1", "a2", "b1"):
            callers.append(await watched.caller(key))
            # The kernel counts idle time in steps of up to ten milliseconds.
            await asyncio.sleep(0.02)
        watched.watch.scan()
        # Of the two connections of one key, the older ended: its client connects anew with the next call.
        found = await asyncio.gather(*(call() for call in callers), return_exceptions=True)
        assert [type(answer).__name__ for answer in found[1:]] == ["LogErrorResponse"] * 3


async def test_whoever_sends_much_without_a_key_is_cut_off() -> None:
    async with _watched(Limits()) as watched:
        small = await watched.sending(frames.unfinished(KEYLESS_BYTES // 2))
        large = await watched.sending(frames.unfinished(2 * KEYLESS_BYTES))
        await watched.scan_until_old()
        assert await _ended([small, large]) == [False, True]


async def test_a_new_connection_may_begin_many_calls_at_once() -> None:
    async with _watched(Limits()) as watched:
        reader = await watched.sending(frames.unfinished(4 * KEYLESS_BYTES))
        await asyncio.sleep(0.2)
        watched.watch.scan()
        assert await _ended([reader]) == [False]


async def test_whoever_has_a_key_may_send_much() -> None:
    async with _watched(Limits()) as watched:
        call = await watched.caller("one")
        watched.watch.scan()
        entry = monitor_pb2.ErrorEntry(message="x" * (4 * KEYLESS_BYTES))
        under_way = asyncio.create_task(call(0.5, monitor_pb2.LogErrorRequest(errors=[entry])))
        await asyncio.sleep(0.3)
        watched.watch.scan()
        assert await under_way == monitor_pb2.LogErrorResponse()


async def _keyed(watched: _Watched) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    """A connection that has made one call with a key, and its name as a peer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", watched.port)
    writer.write(frames.one_call(b"/darkroom.monitor.v1.MonitorService/LogError", b"one"))
    await asyncio.sleep(0.2)
    watched.watch.scan()
    return reader, writer, f"ipv4:127.0.0.1:{writer.get_extra_info('sockname')[1]}"


@pytest.mark.parametrize(("kind", "payload"), [(4, b""), (0x20, bytes(16_000))], ids=["SETTINGS", "undefined"])
async def test_frames_outside_of_calls_reset_the_connection(kind: int, payload: bytes) -> None:
    async with _watched(Limits(address=100)) as watched:
        other = await watched.caller("two")
        reader, writer, _ = await _keyed(watched)
        writer.write(frames.of_no_call(4 * 1024**2, kind, payload))
        assert await watched.is_reset_by_scans(reader)
        assert not await can_connect(watched.port)
        await other()


async def test_large_messages_are_accounted_for() -> None:
    async with _watched(Limits(address=100)) as watched:
        call = await watched.caller("one")
        request = monitor_pb2.LogErrorRequest(errors=[monitor_pb2.ErrorEntry(message="x" * 4 * 1024**2)])
        under_way = [asyncio.create_task(call(0.0, request)) for _ in range(20)]
        while not all(task.done() for task in under_way):
            watched.watch.scan()
            await asyncio.sleep(0.02)
        assert await asyncio.gather(*under_way) == [monitor_pb2.LogErrorResponse()] * 20


@pytest.mark.parametrize(("aborted", "is_cut_off"), [(4, False), (0, True)])
async def test_cancelled_messages_are_accounted_for(aborted: int, is_cut_off: bool) -> None:
    async with _watched(Limits(address=100)) as watched:
        reader, writer, peer = await _keyed(watched)
        for _ in range(aborted):
            with suppress(asyncio.CancelledError), watched.callers.receiving(peer):
                raise asyncio.CancelledError
        writer.write(frames.of_no_call(4 * 1024**2, 0x20, bytes(16_000)))
        assert await watched.is_reset_by_scans(reader) is is_cut_off
        writer.close()


async def test_an_address_that_goes_on_sending_cannot_connect_again() -> None:
    async with _watched(Limits(address=100)) as watched:
        call = await watched.caller("one")
        for _ in range(40):
            await watched.sending(frames.unfinished(KEYLESS_BYTES))
        await asyncio.sleep(0.5)
        watched.watch.scan()
        assert not await can_connect(watched.port)
        # Open connections of other clients at the address go on.
        await call()


async def test_an_address_that_makes_many_calls_without_a_key_cannot_connect_again() -> None:
    async with _watched(Limits(address=100)) as watched:
        other = await watched.caller("one")
        address = f"127.0.0.1:{watched.port}"
        async with grpc.aio.insecure_channel(address, _ALONE) as channel:
            call = _calling(channel, "")
            for _ in range(9):
                found = await asyncio.gather(*(call() for _ in range(100)), return_exceptions=True)
                assert {type(one).__name__ for one in found} == {"AioRpcError"}
            watched.watch.scan()
            assert not await can_connect(watched.port)
        await other()


async def test_calls_of_a_reset_connection_are_dropped_until_its_port_is_used_again() -> None:
    async with _watched(Limits()) as watched:
        # Not one of those that the system gives to connections of other tests.
        local_port = free_port()
        local = ("127.0.0.1", local_port)
        reader, writer = await asyncio.open_connection("127.0.0.1", watched.port, local_addr=local)
        peer = f"ipv4:127.0.0.1:{local_port}"
        writer.write(frames.unfinished(2 * KEYLESS_BYTES))
        await asyncio.sleep(0.2)
        assert watched.callers.count_call(peer)
        await watched.scan_until_old()
        assert await _ended([reader]) == [True]
        assert not watched.callers.count_call(peer)
        # The port is free when the socket is closed.
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        _, again = await asyncio.open_connection("127.0.0.1", watched.port, local_addr=local)
        await asyncio.sleep(0.2)
        watched.watch.scan()
        assert watched.callers.count_call(peer)
        again.close()


async def test_a_port_for_probes_blocks_nobody() -> None:
    async with _watched(Limits(address=100), is_for_probes=True) as watched:
        readers = [await watched.sending(frames.unfinished(2 * KEYLESS_BYTES)) for _ in range(40)]
        await watched.scan_until_old()
        assert await _ended(readers) == [True] * 40
        assert await can_connect(watched.port, within=10)


async def test_a_client_with_many_new_connections_that_send_at_once_is_within_the_limits() -> None:
    async with _watched(Limits(address=100)) as watched:
        for _ in range(50):
            await watched.sending(frames.unfinished(64 * 1024))
        await asyncio.sleep(0.5)
        assert len(watched.watch.scan()) == 50
        await asyncio.sleep(0.2)
        assert len(watched.watch.scan()) == 50


async def test_what_was_sent_before_a_call_was_authenticated_is_not_held_against_the_address() -> None:
    async with _watched(Limits(address=100)) as watched:
        for _ in range(70):
            _, writer = await asyncio.open_connection("127.0.0.1", watched.port)
            writer.write(frames.unfinished(KEYLESS_BYTES // 2))
            await asyncio.sleep(0.02)
            # Counted now, and refunded when a call is authenticated, though the connection is closed by then.
            watched.watch.scan()
            with watched.callers.calling(f"ipv4:127.0.0.1:{writer.get_extra_info('sockname')[1]}", Holder(key="one")):
                writer.transport.abort()
            await asyncio.sleep(0.02)
            watched.watch.scan()
        assert await can_connect(watched.port, within=10)


async def test_addresses_without_shares_are_not_blocked() -> None:
    async with _watched(Limits()) as watched:
        for _ in range(40):
            await watched.sending(frames.unfinished(KEYLESS_BYTES))
        await asyncio.sleep(0.5)
        watched.watch.scan()
        assert await can_connect(watched.port, within=10)


async def _cancel_many(watched: _Watched, calls: int, after_seconds: float) -> None:
    """Calls of one key, a few at once, each cancelled by its client so many seconds later."""
    call = await watched.caller("one")

    async def begin_and_cancel() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(after_seconds):
                await call(5.0)

    for _ in range(0, calls, 20):
        await asyncio.gather(*(begin_and_cancel() for _ in range(20)))
    await asyncio.sleep(0.2)


async def test_a_key_whose_calls_are_cancelled_at_once_is_cut_off() -> None:
    async with _watched(Limits(address=100)) as watched:
        other = await watched.caller("two")
        before = {end.peer for end in watched.watch.scan()}
        await _cancel_many(watched, 500, 0.02)
        assert len(watched.watch.scan()) == 2
        await asyncio.sleep(0.1)
        assert {end.peer for end in watched.watch.scan()} == before
        assert not await can_connect(watched.port)
        await other()


async def test_calls_that_are_cancelled_later_are_not_held_against_their_key() -> None:
    async with _watched(Limits(address=100)) as watched:
        await _cancel_many(watched, 500, 0.15)
        watched.watch.scan()
        await asyncio.sleep(0.1)
        assert len(watched.watch.scan()) == 1
        assert await can_connect(watched.port, within=10)


async def test_what_was_known_of_connections_is_forgotten_with_them() -> None:
    async with _watched(Limits(total=5)) as watched:
        await watched.caller("one")
        assert len(watched.watch.scan()) == 1
        assert len(watched.callers.by_endpoint()) == 1
        await watched.close()
        await asyncio.sleep(0.2)
        assert not watched.watch.scan()
        assert not watched.callers.by_endpoint()


async def test_other_sockets_of_the_process_are_left_alone() -> None:
    async with _watched(Limits(total=1)) as watched, await asyncio.start_server(_silent, "127.0.0.1", 0) as there:
        address = there.sockets[0].getsockname()
        opened = [await asyncio.open_connection(*address) for _ in range(3)]
        watched.watch.scan()
        assert await _ended([reader for reader, _ in opened]) == [False, False, False]
        for _, writer in opened:
            writer.close()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()
