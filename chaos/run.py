"""One run: starts a stack with two dispatchers and two pollers, breaks it while clients send, and audits it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import sqlalchemy as sa

from chaos.ageing import resume_old_batches
from chaos.audit import Report, audit
from chaos.batches import send_batches
from chaos.chance_faults import StorageProxy
from chaos.injecting import FaultInjector
from chaos.load import Load, send
from chaos.money import Moment
from chaos.money_audits import MoneyAudits
from chaos.postgres_proxy import PostgresProxy
from chaos.recovery import Recovery
from chaos.resolving import Operator
from chaos.reusing import Races
from chaos.rows import rows
from chaos.schedule import Schedule, schedule
from chaos.terminal import TERMINAL, Terminal
from chaos.vendors import Vendors
from libs.client.channel import open_channel
from libs.common.catalog import load as load_catalog
from libs.common.database.engine import Database
from libs.common.errors import GenerationError
from libs.common.settings import ServiceName, Settings
from sandbox.health import health
from sandbox.launcher import Stack, StackFailed
from sandbox.plan import Plan, Ports
from sandbox.postgres import Postgres
from sandbox.processes import free_port

PROCESSES = ("gateway", "dispatcher", "dispatcher-2", "poller", "poller-2")
_SERVICES: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller")
_LEASE_SECONDS = 5
STALL_SECONDS = _LEASE_SECONDS + 2.0
_LOST_REPLIES = 0.005
_DEADLINE_SECONDS = 30
_SETTINGS = {
    "DARKROOM_LEASE_SECONDS": str(_LEASE_SECONDS),
    "DARKROOM_SWEEP_SECONDS": "0.5",
    "DARKROOM_DOWNLOAD_TIMEOUT_SECONDS": "10",
    "DARKROOM_DRAIN_SECONDS": "5",
    "DARKROOM_SUBMIT_DRAIN_SECONDS": "5",
    # Longer than the vendors' lookups lag, and than a stall.
    "DARKROOM_LOOKUP_INTERVAL_SECONDS": "1",
    "DARKROOM_LOOKUP_APART_SECONDS": "4",
    "DARKROOM_LOOKUP_MARGIN_SECONDS": "8",
    "DARKROOM_LOOKUP_LIMIT_SECONDS": "20",
    "DARKROOM_POLL_PROBE_SECONDS": "1",
    "DARKROOM_MISSING_POLL_SECONDS": "3",
    "DARKROOM_MISSING_BELIEVED_SECONDS": "4",
    "DARKROOM_LATE_POLL_FIRST_SECONDS": "3",
    "DARKROOM_LATE_POLL_LONGEST_SECONDS": "4",
    "DARKROOM_LATE_POLL_SECONDS": "60",
}
_SETTLE_SECONDS = 90.0
# What clients get beyond the time in which things are broken, to see their batches through.
_CLIENTS_SECONDS = 180.0
# What a late result gets to arrive after all has ended.
_LATE_SECONDS = 30.0
_TELL_SECONDS = 5.0
# Beside the single ones, so many of which come for each batch, old batch and race.
_GENERATIONS_OF_A_BATCH, _FEWEST_BATCHES = 60, 6
_GENERATIONS_OF_AN_OLD_BATCH, _FEWEST_OLD_BATCHES = 500, 2
_GENERATIONS_OF_A_RACE, _FEWEST_RACES = 60, 6
# What the operator attaches may end at risk itself.
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run, and what was injected."""

    schedule: Schedule
    report: Report
    load: Load
    recovery: Recovery
    injector: FaultInjector
    audits: MoneyAudits
    operator: Operator
    storage_faults: int
    lost_replies: int
    seconds: float


def _shorten_waits(catalog: dict[str, Any]) -> None:
    """Shorten deadlines and waits to seconds, so that a run of minutes has many of them."""
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
        model["polling"] = {
            "strategy": "exponential", "interval_seconds": 0.7, "max_duration_seconds": _DEADLINE_SECONDS
        }  # fmt: skip


class Run:
    """One run.

    Args:
        folder: holds all of its data; must be empty.
        seed: of all random choices.
        generations: how many single generations are sent.
        seconds: for how long faults are injected.
        tell: called with a line about each event.
    """

    def __init__(
        self, folder: Path, *, seed: int, generations: int, seconds: float, tell: Callable[[str], None]
    ) -> None:
        self._plan = schedule(seed, seconds=seconds, processes=PROCESSES, stall_seconds=STALL_SECONDS)
        self._generations = generations
        self._tell = tell
        ports = Ports.free()
        self._storage = StorageProxy(free_port(), f"http://127.0.0.1:{ports.object_store}", seed=seed)
        port = free_port()
        self._postgres = PostgresProxy(port, ports.postgres, lost_share=_LOST_REPLIES, seed=seed)
        # The password is made here; the server that starts later on the same folder has the same.
        self._database_url = Postgres(folder / "postgres", ports.postgres).url
        through = sa.make_url(self._database_url).set(port=port).render_as_string(hide_password=False)
        settings = {
            **_SETTINGS,
            "DARKROOM_S3_ENDPOINT_URL": self._storage.url,
            "DARKROOM_DATABASE_URL": through,
        }
        self._stack = Stack(
            Plan(folder, ports, settings=settings, adjust=_shorten_waits, services=_SERVICES), tell=tell
        )
        self._vendors = Vendors(f"http://127.0.0.1:{ports.simulators}", seed=seed)
        self._load = Load()

    async def go(self) -> Outcome:
        """Run it. StackFailed where the stack does not start, or a part does not come back."""
        started = time.monotonic()
        await self._storage.start()
        await self._postgres.start()
        try:
            await asyncio.to_thread(self._start)
            database = Database(self._database_url, size=6, statement_timeout_seconds=20, application_name="chaos")
            try:
                return await self._run(database, started)
            finally:
                await database.close()
        finally:
            await asyncio.to_thread(self._stack.stop)
            await self._postgres.close()
            await self._storage.close()

    def _start(self) -> None:
        self._stack.start()
        for service in ("dispatcher", "poller"):
            self._tell(f"another {service}: {self._stack.add_replica(service)}")

    async def _run(self, database: Database, started: float) -> Outcome:
        await self._vendors.refuse({})
        terminal, recovery = Terminal(database), Recovery(database)
        audits = MoneyAudits(database, self._vendors, tell=self._tell)
        injector = FaultInjector(
            self._stack,
            PROCESSES,
            self._postgres,
            recovery,
            refuse=self._vendors.refuse,
            is_ready=self._all_ready,
            tell=self._tell,
        )
        watching = [
            asyncio.create_task(work) for work in (terminal.watch(), audits.watch(), self._tell_progress(database))
        ]
        address = f"127.0.0.1:{self._stack.plan.ports.grpc['gateway']}"
        try:
            async with open_channel(address, self._stack.admin_key) as channel:
                await self._break_while_sending(channel, database, terminal, injector)
                self._postgres.stop_faults()
                self._tell("fault injection has ended; waiting until all generations have ended")
                await self._settle(database)
                await self._wait_for_late(database)
                operator = await self._resolve(channel, database, audits)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await recovery.close()
        await terminal.look()
        report = await self._audit(database, terminal, audits)
        return Outcome(
            self._plan,
            report,
            self._load,
            recovery,
            injector,
            audits,
            operator,
            self._storage.faults,
            self._postgres.lost_replies,
            time.monotonic() - started,
        )

    async def _break_while_sending(
        self, channel: grpc.aio.Channel, database: Database, terminal: Terminal, injector: FaultInjector
    ) -> None:
        seed, seconds, load = self._plan.seed, self._plan.seconds, self._load
        models = load_catalog(Path(self._stack.environment["DARKROOM_CATALOG"])).models
        http_url = f"http://127.0.0.1:{self._stack.plan.ports.gateway_http}"
        races = Races(channel, load, http_url=http_url, key=self._stack.admin_key, seed=seed)
        work = (
            injector.inject(self._plan),
            send(channel, load, seed=seed, count=self._generations, seconds=seconds * 0.9, models=models),
            send_batches(
                channel,
                load,
                seed=seed,
                count=max(_FEWEST_BATCHES, self._generations // _GENERATIONS_OF_A_BATCH),
                seconds=seconds * 0.7,
            ),
            races.run(count=max(_FEWEST_RACES, self._generations // _GENERATIONS_OF_A_RACE), seconds=seconds * 0.7),
            resume_old_batches(
                channel,
                database,
                terminal,
                load,
                seed=seed,
                count=max(_FEWEST_OLD_BATCHES, self._generations // _GENERATIONS_OF_AN_OLD_BATCH),
            ),
        )
        try:
            async with asyncio.timeout(seconds + _CLIENTS_SECONDS), asyncio.TaskGroup() as group:
                watch = group.create_task(injector.watch())
                await asyncio.gather(*(group.create_task(part) for part in work))
                watch.cancel()
        except TimeoutError as error:
            raise StackFailed("the clients did not get all tickets in time") from error
        except ExceptionGroup as failures:
            raise StackFailed(f"clients or fault injections failed: {_first(failures)}") from failures

    async def _all_ready(self) -> bool:
        ports = self._stack.plan.ports.grpc
        answers = await asyncio.gather(*(asyncio.to_thread(health, ports[name]) for name in _SERVICES))
        return set(answers) == {"SERVING"}

    async def _resolve(self, channel: grpc.aio.Channel, database: Database, audits: MoneyAudits) -> Operator:
        """Have an operator resolve what is uncertain or at risk, and audit the money before and after."""
        await audits.audit(Moment.SETTLED)
        catalog = load_catalog(Path(self._stack.environment["DARKROOM_CATALOG"]))
        operator = Operator(channel, {one.id: str(one.base_url).rstrip("/") for one in catalog.providers.values()})
        await self._vendors.behave_well()
        for _ in range(_ROUNDS):
            count = await operator.resolve_all(await self._vendors.bills())
            self._tell(f"an operator resolves {count} submissions")
            await self._settle(database)
            if not count:
                break
        await audits.audit(Moment.RESOLVED)
        return operator

    async def _settle(self, database: Database) -> None:
        """Wait until all have ended, but not for ever: what has not ended by then is stuck."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            if not await self._in_flight(database):
                return
            await asyncio.sleep(0.5)

    async def _wait_for_late(self, database: Database) -> None:
        """Wait a while for late results of tasks that were given up."""
        deadline = time.monotonic() + _LATE_SECONDS
        while time.monotonic() < deadline:
            (row,) = await rows(database, "SELECT count(*) AS left FROM poll_tasks WHERE late_poll_at IS NOT NULL")
            if not row["left"]:
                return
            await asyncio.sleep(0.5)

    async def _in_flight(self, database: Database) -> int:
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

    async def _audit(self, database: Database, terminal: Terminal, audits: MoneyAudits) -> Report:
        bucket = self._stack.plan.folder / "objects/buckets" / Settings.model_fields["s3_bucket"].default
        report = await audit(
            database, load=self._load, bills=await self._vendors.bills(), bucket=bucket, terminal=terminal
        )
        report.money, report.late_missing = audits.faults, audits.late_results_missing
        return report


def _first(failures: BaseExceptionGroup[Exception]) -> str:
    """The first failure of a group, whatever groups it is in."""
    first: BaseException = failures
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return str(first)
