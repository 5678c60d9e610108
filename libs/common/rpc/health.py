"""Whether a service is alive, and whether it is ready: two answers that differ on purpose.

`liveness` stays SERVING as long as the process can answer; a database that is away must not get it restarted.
`""` and the service's own name follow the database and the service's loops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from grpc_health.v1 import health, health_pb2

from libs.common import metrics

log = structlog.get_logger()
LIVENESS = "liveness"

Check = Callable[[], Awaitable[str | None]]
"""Answers why the service is not ready, or None."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def set_serving(servicer: health.aio.HealthServicer, name: str, *, serves: bool) -> None:
    """Answer checks for a name so from now on."""
    await servicer.set(name, _SERVING if serves else _NOT_SERVING)


class Readiness:
    """Keeps the health servicer's answers true.

    Args:
        servicer: what answers.
        services: names that answer as `""` does.
        checks: all of them must answer None for the service to be ready.
        timeout_seconds: a check that takes longer has failed.
    """

    def __init__(
        self,
        servicer: health.aio.HealthServicer,
        services: Sequence[str],
        checks: Sequence[Check],
        *,
        timeout_seconds: float,
    ) -> None:
        self._servicer = servicer
        self._names = ("", *services)
        self._checks = checks
        self._timeout_seconds = timeout_seconds
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
        """Ask all checks and answer accordingly from now on."""
        found = [reason for reason in await asyncio.gather(*map(self._ask, self._checks)) if reason]
        if not self._draining:
            await self._tell("; ".join(found) or None)

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
