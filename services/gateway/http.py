"""The gateway's HTTP port."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from aiohttp import hdrs, web

from libs.common.rpc.open_streams import OpenStreams
from libs.common.settings import Settings, listed
from services.gateway.connections import Connection
from services.gateway.gate import Gate
from services.gateway.holding import holding
from services.gateway.rest.middlewares import (
    cors,
    cors_headers,
    observe,
    pack,
    problems,
    readable,
    request_headers,
    request_id,
)

log = structlog.get_logger()
_HANDSHAKE_SECONDS = 10.0
_IDLE_SECONDS = 75.0
# As web.AppRunner takes it; the stubs of the protocol alone know no such value.
_NO_LOG: Any = None


class Http:
    """A server on the loop of the service.

    Args:
        settings: where it listens, and its bounds.
        routes: what it serves.
        open_streams: knows the streams of a key.
        is_stopping: whether connections are to be closed with the next answer, so that clients go elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        routes: Sequence[web.RouteDef],
        *,
        open_streams: OpenStreams,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._settings = settings
        origins = listed(settings.cors_origins)
        self._gate = Gate(
            self._connection,
            connections=settings.http_connections,
            per_address=settings.http_connections_per_address,
            header_timeout_seconds=settings.http_header_timeout_seconds,
            write_timeout_seconds=settings.watch_write_timeout_seconds,
        )
        app = web.Application(
            middlewares=[
                holding(settings, open_streams, self._gate),
                request_id,
                observe,
                cors(origins),
                pack,
                problems,
                readable,
            ],
            client_max_size=settings.http_body_limit_bytes,
        )
        app.add_routes(routes)
        app.on_response_prepare.append(_on_prepare(origins, is_stopping))
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=settings.drain_seconds,
        )
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. SystemExit where the port cannot be taken."""
        settings = self._settings
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        tls = _tls(settings)
        try:
            self._server = await loop.create_server(
                self._gate,
                settings.bind_host,
                settings.gateway_http_port,
                reuse_address=True,
                ssl=tls,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS if tls else None,
            )
        except OSError as error:
            log.fatal("cannot start: the port cannot be taken", port=settings.gateway_http_port, error=error)
            raise SystemExit(1) from error

    def _connection(self) -> Connection:
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        return Connection(server, loop=loop, access_log=_NO_LOG, keepalive_timeout=_IDLE_SECONDS)

    async def close(self) -> None:
        """Take no more requests, and let those under way end."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.gateway_tls_certificate is None or settings.gateway_tls_private_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.gateway_tls_certificate, settings.gateway_tls_private_key)
    return context


def _on_prepare(
    origins: Sequence[str], is_stopping: Callable[[], bool]
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if is_stopping():
            # The header was decided on before this: without it the client would send its next request in vain.
            response.headers[hdrs.CONNECTION] = "close"
            response.force_close()
        headers: dict[str, Any] = {**request_headers(), **cors_headers(request, origins)}
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        # It tells nobody what runs here.
        response.headers.popall(hdrs.SERVER, None)

    return prepare
