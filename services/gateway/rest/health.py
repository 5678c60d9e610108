"""`GET /api/health` for anybody, and `/api/health/detailed` for admins: they answer within 2 s, whatever hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from aiohttp import web
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common import VERSION
from libs.common.errors import GenerationError
from libs.common.rpc.errors import answer_of
from libs.common.rpc.service import Frame
from services.gateway.access import permission_denied
from services.gateway.authentication import Authentication
from services.gateway.rest.callers import caller_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ANSWER_SECONDS = 1.7
_FRESH_SECONDS = 1.0
_WORDS = {
    monitor_pb2.COMPONENT_STATUS_UP: "up",
    monitor_pb2.COMPONENT_STATUS_DEGRADED: "degraded",
    monitor_pb2.COMPONENT_STATUS_DOWN: "down",
}
# Where each component stands in the answer: its group, by what its name begins with.
_GROUPS = {"adapter:": "adapters", "service:": "services"}


class Health:
    """How everything is, as the monitor has it; without a monitor, as far as this gateway sees.

    Args:
        frame: says whether the gateway serves and the database answers.
        monitor: knows the rest.
    """

    def __init__(self, frame: Frame, monitor: MonitorServiceStub) -> None:
        self._frame = frame
        self._monitor = monitor
        self._started = monotonic()
        self._asking: asyncio.Task[dict[str, Any]] | None = None
        self._asked_at = float("-inf")

    def routes(self, authentication: Authentication) -> list[web.RouteDef]:
        """What is served."""

        async def brief(_: web.Request) -> web.StreamResponse:
            found = await self._found()
            return _answer({name: found[name] for name in ("status", "timestamp", "uptime", "version")})

        async def detailed(request: web.Request) -> web.StreamResponse:
            caller = await caller_of(request, authentication)
            if not caller.is_admin:
                raise permission_denied()
            return _answer(await self._found())

        return [web.get("/api/health", brief), web.get("/api/health/detailed", detailed)]

    async def _found(self) -> dict[str, Any]:
        """All of it; who asks meanwhile, or within a second, is told the same."""
        if self._asking is None or (self._asking.done() and monotonic() - self._asked_at > _FRESH_SECONDS):
            self._asked_at = monotonic()
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> dict[str, Any]:
        has_database, told = await asyncio.gather(
            self._frame.database_answers(_ANSWER_SECONDS), self._told_by_monitor()
        )
        components = _components(told) if told else {"services": {"monitor": _own("down", "It cannot be asked.")}}
        components["database"] = components.get("database") or _own("up", "")
        if not has_database:
            components["database"] = _own("down", "It does not answer the gateway.")
        components.setdefault("services", {})["gateway"] = (
            _own("up", "") if has_database else _own("down", "It is not ready without the database.")
        )
        # A gateway that serves is not to be sent away because the monitor sees the database or the gateway no more.
        status = "healthy" if told is not None and told.status == "healthy" else "degraded"
        return {
            "status": status if has_database and self._frame.is_ready else "unhealthy",
            "timestamp": datetime.now(UTC).isoformat(),
            "uptime": round(monotonic() - self._started, 1),
            "version": VERSION,
            "components": components,
        }

    async def _told_by_monitor(self) -> monitor_pb2.GetHealthResponse | None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await answer_of(self._monitor.GetHealth(monitor_pb2.GetHealthRequest(), timeout=_ANSWER_SECONDS))
        except (GenerationError, TimeoutError):
            return None


def _components(told: monitor_pb2.GetHealthResponse) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for component in told.components:
        values = {
            "status": _WORDS.get(component.status, "down"),
            "message": component.message,
            "lastCheck": component.last_check.ToDatetime(UTC).isoformat(),
            "responseTime": component.response_time_ms,
        }
        prefix = next((prefix for prefix in _GROUPS if component.name.startswith(prefix)), None)
        if prefix is None:
            found[component.name] = values
        else:
            found.setdefault(_GROUPS[prefix], {})[component.name.removeprefix(prefix)] = values
    return found


def _own(status: str, message: str) -> dict[str, Any]:
    return {"status": status, "message": message, "lastCheck": datetime.now(UTC).isoformat(), "responseTime": 0.0}


def _answer(found: dict[str, Any]) -> web.Response:
    return web.json_response(found, status=503 if found["status"] == "unhealthy" else 200)
