"""How each component is: looked at in parallel, each look with its own deadline, so that an answer never waits long."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic, perf_counter
from typing import Literal

import structlog

from libs.common.errors import GenerationError

log = structlog.get_logger()
Status = Literal["up", "degraded", "down"]
Whole = Literal["healthy", "degraded", "unhealthy"]

LOOK_SECONDS = 1.5
# Without these nothing is accepted; without any other, what was accepted waits.
_VITAL = ("database", "service:gateway")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look found. `response_ms` None: as long as the look took."""

    status: Status
    message: str = ""
    response_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """A component as it was last found. `down_since`: by the monotonic clock; None while it is not down."""

    name: str
    status: Status
    message: str
    last_check: datetime
    response_ms: float
    down_since: float | None


class Check(ABC):
    """Looks at one component, or at several that are looked at together."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """What it looks at."""

    @abstractmethod
    async def look(self) -> Mapping[str, Finding]:
        """How they are. What it raises is told of all of them."""

    def late(self, seconds: float) -> Finding:
        """What it means when a look has not ended within so many seconds."""
        return Finding("down", f"There was no answer within {seconds:g} s.")


class Board:
    """The components.

    Args:
        checks: what looks at them.
        look_seconds: what each gets to answer.
    """

    def __init__(self, checks: Sequence[Check], *, look_seconds: float = LOOK_SECONDS) -> None:
        self._checks = checks
        self._look_seconds = look_seconds
        self._components: dict[str, Component] = {}
        self._hanging: dict[int, asyncio.Task[Mapping[str, Finding]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")

    @property
    def components(self) -> list[Component]:
        """Each as it was last found, by name."""
        return [self._components[name] for name in sorted(self._components)]

    @property
    def whole(self) -> Whole:
        """All of them in a word."""
        if any(name in _VITAL and found.status == "down" for name, found in self._components.items()):
            return "unhealthy"
        return "healthy" if all(found.status == "up" for found in self._components.values()) else "degraded"

    def down(self) -> dict[str, tuple[float, str]]:
        """Of each component that is down, since how many seconds, and why."""
        now = monotonic()
        return {
            found.name: (now - found.down_since, found.message)
            for found in self._components.values()
            if found.down_since is not None
        }

    async def fresh(self, max_age_seconds: float) -> None:
        """Look, unless the last look is younger. Answers within the time of one look, whatever hangs."""
        if monotonic() - self._looked_at > max_age_seconds:
            await self.look()

    async def look(self) -> None:
        """Look at all. Who asks meanwhile shares the look."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        found = await asyncio.gather(*(self._ask(check) for check in self._checks))
        known = {name for check in self._checks for name in check.names()}
        self._components = {name: component for part in found for name, component in part.items() if name in known}
        self._looked_at = monotonic()

    async def _ask(self, check: Check) -> dict[str, Component]:
        started = perf_counter()
        findings: Mapping[str, Finding]
        try:
            findings = await self._answer(check)
        except TimeoutError:
            findings = dict.fromkeys(check.names(), check.late(self._look_seconds))
        except GenerationError as error:
            findings = dict.fromkeys(check.names(), Finding("down", error.message))
        except Exception as error:
            log.exception("check failed", components=list(check.names()))
            findings = dict.fromkeys(check.names(), Finding("down", f"The check failed: {type(error).__name__}."))
        took_ms = (perf_counter() - started) * 1_000
        return {name: self._component(name, finding, took_ms) for name, finding in findings.items()}

    async def _answer(self, check: Check) -> Mapping[str, Finding]:
        """What a check answers in time. One that hangs is not asked again before it has ended."""
        task = self._hanging.pop(id(check), None) or asyncio.create_task(_look_of(check))
        done, _ = await asyncio.wait([task], timeout=self._look_seconds)
        if not done:
            self._hanging[id(check)] = task
            raise TimeoutError
        return task.result()

    def _component(self, name: str, finding: Finding, took_ms: float) -> Component:
        before = self._components.get(name)
        down_since = None
        if finding.status == "down":
            down_since = before.down_since if before and before.down_since is not None else monotonic()
        if before is not None and before.status != finding.status:
            log.info("component changed", component=name, status=finding.status, before=before.status)
        component = Component(name, finding.status, finding.message, datetime.now(UTC), took_ms, down_since)
        return component if finding.response_ms is None else replace(component, response_ms=finding.response_ms)

    async def close(self) -> None:
        """Let go of what hangs."""
        for task in (*self._hanging.values(), *([self._looking] if self._looking else [])):
            task.cancel()


async def _look_of(check: Check) -> Mapping[str, Finding]:
    return await check.look()
