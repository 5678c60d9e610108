"""Injects the faults of a schedule into a running stack, and restarts the parts that they stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import ClassVar

import psutil

from chaos.postgres_proxy import HeldCommit, PostgresProxy
from chaos.recovery import Recovery
from chaos.schedule import COMMIT_WAIT_SECONDS, POSTGRES, SIMULATORS, Injection, Kind, Schedule
from sandbox.children import Child
from sandbox.launcher import Stack, StackFailed

# Nobody is killed again so soon after it was started.
_LIVES_SECONDS = 2.0

Refuse = Callable[[Mapping[str, int]], Awaitable[None]]
"""Has the vendors refuse reads, each with an HTTP status, and those not named take them."""


class FaultInjector:
    """Injects faults into the parts of one stack.

    Args:
        stack: the running stack.
        processes: the names of its processes that may die.
        proxy: before its Postgres.
        recovery: follows the rows that killed processes held.
        refuse: sets what the simulated vendors refuse; called again when they have been away.
        is_ready: whether every service is ready.
        tell: called with a line about each injection.
    """

    def __init__(
        self,
        stack: Stack,
        processes: tuple[str, ...],
        proxy: PostgresProxy,
        recovery: Recovery,
        *,
        refuse: Refuse,
        is_ready: Callable[[], Awaitable[bool]],
        tell: Callable[[str], None],
    ) -> None:
        self._stack = stack
        self._processes = processes
        self._proxy = proxy
        self._recovery = recovery
        self._refuse = refuse
        self._is_ready = is_ready
        self._tell = tell
        self._away: set[str] = set()
        self._refused: dict[str, int] = {}
        self.counts: Counter[Kind] = Counter()
        """How many faults of each kind were injected."""

    async def inject(self, plan: Schedule) -> None:
        """Inject all faults, and return when every part runs again. StackFailed for a part that does not."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for injection in plan.injections:
                await asyncio.sleep(max(0.0, began + injection.at - time.monotonic()))
                group.create_task(self._by_kind[injection.kind](self, injection))

    async def watch(self) -> None:
        """Look for parts that end without an injected fault, until cancelled. StackFailed where one does."""
        while True:
            await asyncio.sleep(_LIVES_SECONDS)
            away = set(self._away)
            ended = await asyncio.to_thread(self._stack.ended)
            for part in ended.keys() - away - self._away:
                raise StackFailed(ended[part])

    async def _kill(self, injection: Injection) -> None:
        if injection.part in self._away:
            return
        self._away.add(injection.part)
        self._tell(f"{injection.part} is killed, for {injection.away_seconds:.1f} s")
        self.counts[injection.kind] += 1
        child = self._stack.children.get(injection.part)
        pid = child.pid if child is not None else None
        await asyncio.to_thread(self._stack.kill, injection.part)
        if pid is not None and injection.part in self._processes:
            self._recovery.follow(pid)
        await self._bring_back(injection)

    async def _bring_back(self, injection: Injection) -> None:
        await asyncio.sleep(injection.away_seconds)
        await asyncio.to_thread(self._stack.restart, injection.part)
        self._away.discard(injection.part)
        if injection.part == SIMULATORS:
            await self._refuse(self._refused)
        if injection.part == POSTGRES:
            self._recovery.follow_readiness(self._is_ready)
        await asyncio.sleep(_LIVES_SECONDS)
        ended = await asyncio.to_thread(self._stack.ended)
        if injection.part in ended and injection.part not in self._away:
            raise StackFailed(f"{injection.part} does not come back: {ended[injection.part]}")

    async def _kill_after_commit(self, injection: Injection) -> None:
        held = await self._proxy.hold(
            "darkroom-gateway", "INSERT INTO generation_requests", within_seconds=COMMIT_WAIT_SECONDS
        )
        if held is None:
            return
        try:
            await self._kill(injection)
        finally:
            held.cut()

    async def _stall(self, injection: Injection) -> None:
        held = await self._proxy.hold(
            "darkroom-dispatcher", "INSERT INTO submissions", within_seconds=COMMIT_WAIT_SECONDS
        )
        if held is None:
            return
        child = await asyncio.to_thread(self._holder, held)
        if child is None:
            held.release()
            return
        self._tell(f"{child.name} is stopped before a send, for {injection.away_seconds:.1f} s")
        self.counts[injection.kind] += 1
        # Not through the child, which may be another process by the time it goes on.
        process = psutil.Process(child.pid)
        process.suspend()
        held.release()
        await asyncio.sleep(injection.away_seconds)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)

    def _holder(self, held: HeldCommit) -> Child | None:
        """The process at the other end of a held COMMIT's connection."""
        for name in self._processes:
            child = self._stack.children[name]
            with contextlib.suppress(psutil.NoSuchProcess):
                ports = {one.laddr.port for one in psutil.Process(child.pid).net_connections("tcp")}
                if held.client_port in ports:
                    return child
        return None

    async def _refuse_reads(self, injection: Injection) -> None:
        self._tell(f"{injection.part} answers reads with {injection.status}, for {injection.away_seconds:.1f} s")
        self.counts[injection.kind] += 1
        self._refused[injection.part] = injection.status
        await self._refuse(self._refused)
        await asyncio.sleep(injection.away_seconds)
        self._refused.pop(injection.part, None)
        await self._refuse(self._refused)

    _by_kind: ClassVar[Mapping[Kind, Callable[[FaultInjector, Injection], Coroutine[None, None, None]]]] = {
        Kind.KILL: _kill,
        Kind.KILL_AFTER_COMMIT: _kill_after_commit,
        Kind.STALL: _stall,
        Kind.REFUSE_READS: _refuse_reads,
    }
