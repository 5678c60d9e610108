"""The gRPC server of every service: grpc.aio's own, but that no path of a call ends it.

grpcio decodes the path of each call in the loop that accepts calls. A path that is not UTF-8 raises there, which shuts
the server down for good. Source: AioServer._server_main_loop of grpcio 1.85, src/python/grpcio/grpc/_cython/_cygrpc/
aio/server.pyx.pxi. Calls of registered methods are accepted by their registered names, so only the accepting of other
calls needs to be replaced: nobody serves their paths, and they are answered UNIMPLEMENTED whatever these are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server as aio_server

from libs.common.settings import Settings

_METADATA_LIMIT_BYTES = 16 * 1024
_BEGINNING_MS = 10_000
_READ_BYTES = 64 * 1024
_UNBOUNDED = 2**31 - 2


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
    made = _Server(interceptors, maximum_concurrent_rpcs, options)
    # The stubs and the package declare the same class twice.
    return cast("grpc.aio.Server", made)


def server_options(settings: Settings, *, is_bounded: bool) -> tuple[tuple[str, int], ...]:
    """Return the channel options of a server. `is_bounded`: whether the streams of a connection have a limit."""
    limit = settings.grpc_message_limit_bytes
    streams = settings.grpc_concurrent_streams if is_bounded else _UNBOUNDED
    return (
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_concurrent_streams", streams),
        ("grpc.max_metadata_size", _METADATA_LIMIT_BYTES),
        ("grpc.so_reuseport", 0),
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
        self._server = _Accepting(self._loop, None, [], list(interceptors), arguments, maximum_concurrent_rpcs)


class _Accepting(cygrpc.AioServer):  # type: ignore[misc]
    """grpcio's server with another way to accept calls of methods that nobody has registered."""

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Accept the next call; None: of a method that is not registered. The loop that accepts calls awaits it."""
        if method is None:
            return asyncio.ensure_future(self._refuse_unknown())
        found: asyncio.Future[Any] = super()._make_request_call_future(method)
        return found

    async def _refuse_unknown(self) -> NoReturn:
        """Answer all calls of unknown methods, until the server shuts down and the accepting raises."""
        loop = asyncio.get_running_loop()
        answering: set[asyncio.Task[None]] = set()
        while True:
            call = await self._request_call()
            answer = cygrpc._handle_rpc("", _Nothing(), (), call, loop, False)  # noqa: SLF001
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, ""))  # noqa: SLF001
            answering.add(task)
            task.add_done_callback(answering.discard)


class _Nothing:
    """Has no handler for any method."""

    @staticmethod
    def resolve_handler(*_: object) -> None:
        """Return none, which is answered with UNIMPLEMENTED."""
