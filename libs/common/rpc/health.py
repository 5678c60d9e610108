"""Whether a service is alive, and whether it is ready: two answers that differ on purpose.

`""` and the service's own name follow the database and the service's loops.
`liveness` stays SERVING as long as a restart would mend nothing: a database that is away must not get a service
restarted, a loop that has died or hangs while the database answers must.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Any

import structlog
from grpc_health.v1 import health, health_pb2

from libs.common import metrics
from libs.common.loops import Loop

log = structlog.get_logger()
LIVENESS = "liveness"

Check = Callable[[], Awaitable[str | None]]
"""Answers why the service is not ready, or None."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthServicer(health.aio.HealthServicer):
    """grpcio-health-checking's own, which leaves out List."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, Any] = {}

    async def set(self, service: str, status: Any) -> None:
        """Answer so for a name from now on."""
        self._told[service] = status
        await super().set(service, status)

    async def List(self, request: Any, context: Any) -> Any:
        """Answer for all names at once."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._told.items()}
        # The stubs are older than the message.
        return vars(health_pb2)["HealthListResponse"](statuses=statuses)


async def set_serving(servicer: health.aio.HealthServicer, name: str, *, serves: bool) -> None:
    """Answer checks for a name so from now on."""
    await servicer.set(name, _SERVING if serves else _NOT_SERVING)


class Readiness:
    """Keeps the health servicer's answers true.

    Args:
        servicer: what answers.
        services: names that answer as `""` does.
        database: answers None while the database answers.
        loops: all of them must turn for the service to be ready.
        timeout_seconds: a check that takes longer has failed.
        stuck_seconds: a loop whose turn takes longer while the database answers costs the liveness.
    """

    def __init__(
        self,
        servicer: health.aio.HealthServicer,
        services: Sequence[str],
        *,
        database: Check,
        loops: Sequence[Loop],
        timeout_seconds: float,
        stuck_seconds: float,
    ) -> None:
        self._servicer = servicer
        self._names = ("", *services)
        self._database = database
        self._loops = loops
        self._timeout_seconds = timeout_seconds
        self._stuck_seconds = stuck_seconds
        self._answers_since: float | None = None
        self._is_alive = True
        self._draining = False
        self._reason: str | None = "starting"

    @property
    def is_ready(self) -> bool:
        """What is answered now."""
        return self._reason is None

    async def begin(self) -> None:
        """Alive from now on, and not ready."""
        await self._servicer.set(LIVENESS, _SERVING)
        await self._tell("starting")

    async def look(self) -> None:
        """Ask the database and all loops, and answer accordingly from now on."""
        checks = (self._database, *(loop.fault for loop in self._loops))
        of_database, *of_loops = await asyncio.gather(*map(self._ask, checks))
        if of_database is not None:
            self._answers_since = None
        elif self._answers_since is None:
            self._answers_since = monotonic()
        await self._tell_alive(self._stuck())
        if not self._draining:
            await self._tell("; ".join(filter(None, (of_database, *of_loops))) or None)

    async def drain(self) -> None:
        """Not ready from now on, for good."""
        self._draining = True
        await self._tell("draining")

    async def _ask(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await check()
        except TimeoutError:
            return "a check did not answer in time"
        except Exception as error:
            return str(error)

    def _stuck(self) -> list[str]:
        """The loops that only a restart can mend. What has waited for the database gets its time anew with it."""
        if self._answers_since is None:
            return []
        answers_for = monotonic() - self._answers_since
        return [
            loop.name
            for loop in self._loops
            if loop.has_died or min(loop.turning_seconds, answers_for) > self._stuck_seconds
        ]

    async def _tell_alive(self, stuck: Sequence[str]) -> None:
        if stuck and self._is_alive:
            log.error("not alive: only a restart can mend this", loops=stuck)
        self._is_alive = not stuck
        await set_serving(self._servicer, LIVENESS, serves=self._is_alive)

    async def _tell(self, reason: str | None) -> None:
        if reason != self._reason:
            if reason is None:
                log.info("ready")
            elif self._draining:
                log.info("not ready", reason=reason)
            else:
                log.warning("not ready", reason=reason)
        self._reason = reason
        metrics.READY.set(reason is None)
        for name in self._names:
            await set_serving(self._servicer, name, serves=reason is None)
