"""One run: starts a stack with two dispatchers and two pollers, breaks it while clients send, and audits it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from chaos.audit import TERMINAL, Report, Terminal, audit, rows
from chaos.batches import send_batches
from chaos.load import Load, send
from chaos.recovery import Recovery
from chaos.schedule import POSTGRES, SIMULATORS, Blow, Schedule, schedule
from chaos.weather import StorageProxy, provider_behaviour
from libs.client.channel import open_channel
from libs.common.catalog import load as load_catalog
from libs.common.database.engine import Database
from libs.common.errors import GenerationError
from libs.common.settings import ServiceName, Settings
from sandbox.health import health
from sandbox.launcher import Stack, StackFailed
from sandbox.plan import Plan, Ports
from sandbox.processes import free_port
from sandbox.simulators import CONTROL

PROCESSES = ("gateway", "dispatcher", "dispatcher-2", "poller", "poller-2")
_SERVICES: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller")
_LEASE_SECONDS = 5
_SETTINGS = {
    "DARKROOM_LEASE_SECONDS": str(_LEASE_SECONDS),
    "DARKROOM_SWEEP_SECONDS": "0.5",
    "DARKROOM_DOWNLOAD_TIMEOUT_SECONDS": "10",
    "DARKROOM_DRAIN_SECONDS": "5",
    "DARKROOM_SUBMIT_DRAIN_SECONDS": "5",
}
_SETTLE_SECONDS = 90.0
# Nobody is killed again so soon after it was started.
_LIVES_SECONDS = 2.0
_TELL_SECONDS = 5.0
# Beside the single ones, so many of which come for each batch.
_GENERATIONS_OF_A_BATCH, _FEWEST_BATCHES = 60, 6


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to, and what it took."""

    schedule: Schedule
    report: Report
    load: Load
    recovery: Recovery
    kills: int
    storage_faults: int
    seconds: float


def _impatient(catalog: dict[str, Any]) -> None:
    """Deadlines and waits of seconds, so that minutes hold many of them."""
    for provider in catalog["providers"].values():
        limits = provider.setdefault("limits", {})
        limits |= {"submit_timeout_seconds": 4, "check_timeout_seconds": 2, "concurrent_checks": 30}
        limits.pop("concurrent_tasks", None)
        limits.pop("requests_per_minute", None)
        provider["retry"] = {"attempts": 5, "first_wait_seconds": 0.5, "longest_wait_seconds": 4}
        provider["breaker"] = {"minimum_calls": 20, "window_seconds": 10, "open_seconds": 2, "longest_open_seconds": 5}
        if "webhooks" in provider:
            provider["webhooks"]["poll_interval_seconds"] = 3
    for model in catalog["models"].values():
        model["polling"] = {"strategy": "exponential", "interval_seconds": 0.7, "max_duration_seconds": 60}


class Run:
    """A run on a folder of its own.

    Args:
        folder: holds data and logs.
        seed: of everything that is drawn.
        generations: how many tickets are wanted.
        seconds: how long things are broken.
        tell: is told how it goes.
    """

    def __init__(
        self, folder: Path, *, seed: int, generations: int, seconds: float, tell: Callable[[str], None]
    ) -> None:
        self._plan = schedule(seed, seconds=seconds, processes=PROCESSES)
        self._generations = generations
        self._tell = tell
        ports = Ports.free()
        self._proxy = StorageProxy(free_port(), f"http://127.0.0.1:{ports.object_store}", seed=seed)
        settings = {**_SETTINGS, "DARKROOM_S3_ENDPOINT_URL": self._proxy.url}
        self._stack = Stack(Plan(folder, ports, settings=settings, adjust=_impatient, services=_SERVICES), tell=tell)
        self._load = Load()
        self._kills = 0

    async def go(self) -> Outcome:
        """Do it. StackFailed where the stack does not come up, or does not come back."""
        started = time.monotonic()
        await self._proxy.start()
        try:
            await asyncio.to_thread(self._start)
            database = Database(
                self._stack.environment["DARKROOM_DATABASE_URL"],
                size=4,
                statement_timeout_seconds=20,
                application_name="chaos",
            )
            try:
                return await self._run(database, started)
            finally:
                await database.close()
        finally:
            await asyncio.to_thread(self._stack.stop)
            await self._proxy.close()

    def _start(self) -> None:
        self._stack.start()
        for service in ("dispatcher", "poller"):
            self._tell(f"another {service}: {self._stack.add_replica(service)}")

    async def _run(self, database: Database, started: float) -> Outcome:
        await self._behave(provider_behaviour(self._plan.seed))
        terminal, recovery = Terminal(database), Recovery(database)
        watching = [asyncio.create_task(terminal.watch()), asyncio.create_task(self._tell_progress(database))]
        await self._break_while_sending(recovery)
        self._tell("nothing is broken any more; the rest settles")
        await self._settle(database)
        for task in watching:
            task.cancel()
        await recovery.close()
        await terminal.look()
        report = await self._audit(database, terminal)
        return Outcome(
            self._plan, report, self._load, recovery, self._kills, self._proxy.faults, time.monotonic() - started
        )

    async def _break_while_sending(self, recovery: Recovery) -> None:
        models = sorted(load_catalog(Path(self._stack.environment["DARKROOM_CATALOG"])).models)
        address = f"127.0.0.1:{self._stack.plan.ports.grpc['gateway']}"
        async with open_channel(address, self._stack.admin_key) as channel:
            batches = send_batches(
                channel,
                self._load,
                seed=self._plan.seed,
                count=max(_FEWEST_BATCHES, self._generations // _GENERATIONS_OF_A_BATCH),
                seconds=self._plan.seconds * 0.7,
            )
            sending = send(
                channel,
                self._load,
                seed=self._plan.seed,
                count=self._generations,
                seconds=self._plan.seconds * 0.9,
                models=models,
            )
            try:
                async with asyncio.timeout(self._plan.seconds + _SETTLE_SECONDS), asyncio.TaskGroup() as group:
                    group.create_task(sending)
                    group.create_task(batches)
                    await self._break(recovery, group)
            except TimeoutError as error:
                raise StackFailed("the clients did not get all tickets in time") from error
            except ExceptionGroup as failures:
                found = failures.subgroup(StackFailed)
                raise (StackFailed(str(found.exceptions[0])) if found else failures) from failures

    async def _break(self, recovery: Recovery, group: asyncio.TaskGroup) -> None:
        began = time.monotonic()
        for blow in self._plan.blows:
            await asyncio.sleep(max(0.0, began + blow.at - time.monotonic()))
            await self._strike(blow, recovery)
            group.create_task(self._return(blow, recovery))

    async def _strike(self, blow: Blow, recovery: Recovery) -> None:
        self._tell(f"{blow.part} is killed, for {blow.away_seconds:.1f} s")
        self._kills += 1
        child = self._stack.children.get(blow.part)
        pid = child.pid if child is not None else None
        await asyncio.to_thread(self._stack.kill, blow.part)
        if pid is not None and blow.part in PROCESSES:
            recovery.follow(pid)

    async def _return(self, blow: Blow, recovery: Recovery) -> None:
        await asyncio.sleep(blow.away_seconds)
        await asyncio.to_thread(self._stack.restart, blow.part)
        if blow.part == SIMULATORS:
            await self._behave(provider_behaviour(self._plan.seed))
        if blow.part == POSTGRES:
            recovery.follow_readiness(self._all_ready)
        await asyncio.sleep(_LIVES_SECONDS)
        ended = await asyncio.to_thread(self._stack.ended)
        if blow.part in ended:
            raise StackFailed(f"{blow.part} does not come back: {ended[blow.part]}")

    async def _all_ready(self) -> bool:
        ports = self._stack.plan.ports.grpc
        answers = await asyncio.gather(*(asyncio.to_thread(health, ports[name]) for name in _SERVICES))
        return set(answers) == {"SERVING"}

    async def _behave(self, behaviour: dict[str, Any]) -> None:
        """Tell the simulators, which may still be starting."""
        url = f"http://127.0.0.1:{self._stack.plan.ports.simulators}{CONTROL}/behaviour"
        async with aiohttp.ClientSession() as session:
            for _ in range(100):
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    async with session.put(url, json=behaviour, raise_for_status=True):
                        return
                await asyncio.sleep(0.1)
        raise RuntimeError("the simulated providers do not come back")

    async def _settle(self, database: Database) -> None:
        """Wait until all have ended, but not for ever: what has not ended by then is stuck."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            if not await self._under_way(database):
                return
            await asyncio.sleep(0.5)

    async def _under_way(self, database: Database) -> int:
        query = f"""SELECT (SELECT count(*) FROM generation_requests WHERE state NOT IN {TERMINAL})
            + (SELECT count(*) FROM generation_batches WHERE ended_at IS NULL) AS left"""
        (row,) = await rows(database, query)
        return int(row["left"])

    async def _tell_progress(self, database: Database) -> None:
        while True:
            await asyncio.sleep(_TELL_SECONDS)
            try:
                found = await rows(database, "SELECT state, count(*) AS count FROM generation_requests GROUP BY 1")
            except GenerationError:
                self._tell("  the database is away")
                continue
            counts = {row["state"]: row["count"] for row in found}
            words = "  ".join(f"{state} {counts[state]}" for state in sorted(counts))
            self._tell(f"  {len(self._load.tickets)} tickets   {words}")

    async def _audit(self, database: Database, terminal: Terminal) -> Report:
        url = f"http://127.0.0.1:{self._stack.plan.ports.simulators}{CONTROL}/ledger"
        async with aiohttp.ClientSession() as session, session.get(url, raise_for_status=True) as reply:
            bills = (await reply.json())["bills"]
        bucket = self._stack.plan.folder / "objects/buckets" / Settings.model_fields["s3_bucket"].default
        load = self._load
        return await audit(
            database, tickets=load.tickets, batches=load.batches, bills=bills, bucket=bucket, terminal=terminal
        )
