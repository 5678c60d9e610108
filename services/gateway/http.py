"""The gateway's HTTP port."""

from __future__ import annotations

import structlog
from aiohttp import web

log = structlog.get_logger()


class Http:
    """A server on the loop of the service.

    Args:
        host, port: where it listens.
        routes: what it serves.
    """

    def __init__(self, host: str, port: int, routes: list[web.RouteDef]) -> None:
        self._host, self._port = host, port
        app = web.Application()
        app.add_routes(routes)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=5.0)

    async def start(self) -> None:
        """Listen. SystemExit where the port cannot be taken."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            log.fatal("cannot start: the port cannot be taken", port=self._port, error=error)
            raise SystemExit(1) from error

    async def close(self) -> None:
        """Let requests under way end."""
        await self._runner.cleanup()
