"""The gRPC server of every service: grpc.aio's own with another way to accept calls.

grpcio decodes the path of each call in the loop that accepts calls. A path that is not UTF-8 raises there, which shuts
the server down for good. That loop also waits for all methods at once, which costs each call time in proportion to the
number of methods, and it accepts one call of a method at a time. Here each registered method has loops of its own, and
so do calls of other methods: nobody serves their paths, and they are answered UNIMPLEMENTED whatever these are.
Source: AioServer._server_main_loop of grpcio 1.85, src/python/grpcio/grpc/_cython/_cygrpc/aio/server.pyx.pxi.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, NoReturn, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server as aio_server

from libs.common.settings import Settings

_METADATA_LIMIT_BYTES = 16 * 1024
_BEGINNING_MS = 10_000
_READ_BYTES = 64 * 1024
_UNBOUNDED = 2**31 - 2
# How many loops accept calls of one method. With 32, floods were measured to delay others as long as with 4.
_ACCEPTED_AT_ONCE = 4


def make_server(
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    maximum_concurrent_rpcs: int | None,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Server:
    """Return a server that serves registered methods alone: those of generated code.

    Args:
        interceptors: around each call of a registered method.
        maximum_concurrent_rpcs: how many calls of registered methods may be in progress. None: any number.
        options: of the channel.
    """
    logging.getLogger(cygrpc.__name__).addFilter(_is_no_disconnect)
    made = _Server(interceptors, maximum_concurrent_rpcs, options)
    # The stubs and the package declare the same class twice.
    return cast("grpc.aio.Server", made)


def _is_no_disconnect(record: logging.LogRecord) -> bool:
    # grpcio logs an error with a traceback if a client disconnects before its response is sent.
    return record.exc_info is None or not isinstance(record.exc_info[1], cygrpc.ExecuteBatchError)


def server_options(settings: Settings, *, is_bounded: bool) -> tuple[tuple[str, int], ...]:
    """Return the channel options of a server. `is_bounded`: whether the streams of a connection have a limit."""
    limit = settings.grpc_message_limit_bytes
    streams = settings.grpc_concurrent_streams if is_bounded else _UNBOUNDED
    return (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_metadata_size", _METADATA_LIMIT_BYTES),
        ("grpc.so_reuseport", 0),
        # The calls of one method that wait to be accepted. gRPC cancels calls at random beyond 1,000 by default, which
        # one client could reach for all others between two scans of `ConnectionWatch`.
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 40_000),
        # A peer that is gone is noticed; one that pings like mad is cut off.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
        # The time that a client has for the handshake and to acknowledge the server's SETTINGS.
        ("grpc.server_handshake_timeout_ms", _BEGINNING_MS),
        ("grpc.http2.settings_timeout", _BEGINNING_MS),
        # `ConnectionWatch` resets connections beyond the limit of the settings. This bounds them between two scans.
        ("grpc.max_allowed_incoming_connections", 2 * settings.grpc_connections if is_bounded else _UNBOUNDED),
        # With BDP probing gRPC grows the windows and buffers messages of several MiB before a handler reads them.
        ("grpc.http2.bdp_probe", 0),
        # The most that is read from one connection before the others, so that a large sender delays them less.
        ("grpc.experimental.tcp_max_read_chunk_size", _READ_BYTES),
        ("grpc.max_connection_idle_ms", 600_000),
        # Connections are renewed, so that replicas that come later get their share.
        ("grpc.max_connection_age_ms", 3_600_000),
        ("grpc.max_connection_age_grace_ms", 300_000),
    )


# A server that stops waits until it has accepted no call for this time, but not longer than the other (seconds).
_QUIET_SECONDS, _SETTLING_SECONDS = 0.05, 2.0


class _Server(aio_server.Server):
    def __init__(
        self,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        maximum_concurrent_rpcs: int | None,
        options: Sequence[Any],
    ) -> None:
        # Not the base's, which would make a server of its own.
        self._loop = cygrpc.get_working_loop()
        arguments = aio_server._augment_channel_arguments(tuple(options), None)  # noqa: SLF001
        self._server = _Accepting(self._loop, interceptors, arguments, maximum_concurrent_rpcs)

    async def stop(self, grace: float | None) -> None:
        """Accept the calls that wait, which gRPC would cancel, then stop as grpc.aio's server does."""
        if grace:
            await self._server.settle(min(grace, _SETTLING_SECONDS))
        await super().stop(grace)


class _Accepting(cygrpc.AioServer):  # type: ignore[misc]
    """grpcio's server with loops of its own that accept calls."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        interceptors: Sequence[grpc.aio.ServerInterceptor],
        arguments: tuple[tuple[str, Any], ...],
        maximum_concurrent_rpcs: int | None,
    ) -> None:
        super().__init__(loop, None, [], list(interceptors), arguments, None)
        self._interceptors = tuple(interceptors)
        self._methods = _Methods()
        self._maximum = maximum_concurrent_rpcs
        self._answering: set[asyncio.Task[None]] = set()
        self._refusing: set[asyncio.Task[None]] = set()
        self._accepted = 0

    async def settle(self, within: float) -> None:
        """Wait until no call was accepted for a moment, at most so many seconds."""
        until, before = monotonic() + within, -1
        while before != self._accepted and monotonic() < until:
            before = self._accepted
            await asyncio.sleep(_QUIET_SECONDS)

    def add_registered_method_handlers(self, handlers: Mapping[str, Any]) -> None:
        """Serve methods, by their paths."""
        self._methods.handlers.update(handlers)
        super().add_registered_method_handlers(handlers)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Accept calls of a method, or of unknown methods for None, until the server shuts down and that raises.

        grpcio's own loop awaits the result, so that it accepts nothing itself.
        """
        if method is None:
            return asyncio.ensure_future(self._refuse_unknown())
        return asyncio.gather(*(self._accept(method) for _ in range(_ACCEPTED_AT_ONCE)))

    async def _accept(self, method: bytes) -> NoReturn:
        loop, path = asyncio.get_running_loop(), method.decode()
        while True:
            call = await self._request_registered_call(method)
            self._accepted += 1
            is_full = self._maximum is not None and len(self._answering) >= self._maximum
            # As AioServer does it. A call beyond the limit is answered RESOURCE_EXHAUSTED.
            answer = cygrpc._handle_rpc(path, self._methods, self._interceptors, call, loop, is_full)  # noqa: SLF001
            self._start(path, answer, call, self._refusing if is_full else self._answering)

    async def _refuse_unknown(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            call = await self._request_call()
            answer = cygrpc._handle_rpc("", _NO_METHODS, (), call, loop, False)  # noqa: SLF001
            self._start("", answer, call, self._refusing)

    def _start(self, path: str, answer: Any, call: Any, among: set[asyncio.Task[None]]) -> None:
        """Run the handler of a call in a task, which is in a set until it ends: event loops keep weak references."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, path))  # noqa: SLF001
        among.add(task)
        task.add_done_callback(among.discard)


class _Methods:
    """The handlers of registered methods, as grpcio looks for them."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def resolve_handler(self, details: Any) -> Any:
        """Return the handler of a method; None, which is answered with UNIMPLEMENTED, if there is none."""
        return self.handlers.get(details.method)


_NO_METHODS = _Methods()
