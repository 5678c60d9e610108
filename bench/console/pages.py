"""Asks for each page as a browser does, and counts what it costs."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Self

import aiohttp
from darkroom.experiments.v1 import experiments_pb2
from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub
from rich.table import Table

from bench.console.rows import BATCH, add
from bench.monitor.rows import fill
from bench.place import Place, environment
from libs.client.channel import open_channel
from libs.common.database import migrate
from libs.common.database.engine import Database
from libs.common.database.stores.statistics import StatisticsStore
from libs.common.settings import ServiceName
from sandbox.launcher import Stack
from sandbox.plan import Plan, Ports

_SERVICES: tuple[ServiceName, ...] = ("gateway", "monitor", "experiments")
_STATEMENTS = re.compile(r"^darkroom_database_statements_total (\S+)$", re.MULTILINE)
_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]+)"')
_FOLD = 100_000
_IDLE_SECONDS = 5.0
# What is shared for a moment is asked for anew each time.
_BETWEEN_SECONDS = 0.05
_PATHS: Mapping[str, str] = {
    "overview": "/admin",
    "generations": "/admin/generations",
    "generations, gallery": "/admin/generations?view=gallery",
    "generations that failed": "/admin/generations?status=FAILED",
    "generations of an owner": "/admin/generations?owner=owner-3",
    "generations of a model that is rare": "/admin/generations?model=model-none",
    "generations of a request": "/admin/generations?search=req_00000000000000000000000007",
    "one generation": "/admin/generations/gen_00000000000000000000000077",
    "batches": "/admin/batches",
    "a batch of 100,000": f"/admin/batches/{BATCH}",
    "errors": "/admin/monitoring/errors",
    "one error": "/admin/monitoring/errors/err_00000000000000000000000001",
    "alerts": "/admin/monitoring/alerts",
    "experiments": "/admin/experiments",
    "an experiment": "/admin/experiments/{experiment}",
    "models": "/admin/models",
    "playground": "/admin/playground?model=flux-pro",
    "keys": "/admin/keys",
    "audit log": "/admin/audit",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """A page. Times to the first byte in milliseconds; statements on average, of all services together."""

    name: str
    middle_ms: float
    slowest_ms: float
    statements: float
    size_bytes: int
    packed_bytes: int

    @staticmethod
    def table(found: Sequence[Measured], generations: int) -> Table:
        """All of them."""
        title = f"{generations:,} generations"
        made = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
        made.add_column("page")
        for name in ("first byte, median", "slowest", "statements", "size", "packed"):
            made.add_column(name, justify="right")
        for one in found:
            made.add_row(
                one.name,
                f"{one.middle_ms:.1f} ms",
                f"{one.slowest_ms:.1f} ms",
                f"{one.statements:.1f}",
                f"{one.size_bytes / 1_000:.1f} kB",
                f"{one.packed_bytes / 1_000:.1f} kB",
            )
        return made


class _Visitor:
    """Somebody who is signed in, and who sees how many statements were sent."""

    def __init__(self, stack: Stack, http: aiohttp.ClientSession) -> None:
        ports = stack.plan.ports
        self._http, self._key = http, stack.admin_key
        self._url = f"http://127.0.0.1:{ports.gateway_http}"
        self._metrics = [f"http://127.0.0.1:{ports.metrics[name]}/metrics" for name in _SERVICES]
        self._idle = 0.0

    async def sign_in(self) -> Self:
        """Sign in, and see how many statements a second are sent while nobody asks for anything."""
        plain = {"accept-encoding": "identity"}
        async with self._http.get(f"{self._url}/admin/sign-in", headers=plain) as reply:
            found = _TOKEN.search(await reply.text())
        assert found is not None
        form = {"key": self._key, "form_token": found[1]}
        async with self._http.post(f"{self._url}/admin/sign-in", data=form, raise_for_status=True):
            pass
        before = await self._statements()
        await asyncio.sleep(_IDLE_SECONDS)
        self._idle = (await self._statements() - before) / _IDLE_SECONDS
        return self

    async def measure(self, name: str, path: str, times: int) -> Measured:
        """Ask for a page so often, once more before that."""
        await self._asked(path)
        before, began = await self._statements(), perf_counter()
        seconds, packed = [], b""
        for _ in range(times):
            took, packed = await self._asked(path)
            seconds.append(took * 1_000)
            await asyncio.sleep(_BETWEEN_SECONDS)
        sent = await self._statements() - before - self._idle * (perf_counter() - began)
        async with self._http.get(self._url + path, headers={"accept-encoding": "identity"}) as reply:
            body = await reply.read()
        return Measured(name, median(seconds), max(seconds), max(0.0, sent / times), len(body), len(packed))

    async def _asked(self, path: str) -> tuple[float, bytes]:
        began = perf_counter()
        async with self._http.get(self._url + path, raise_for_status=True) as reply:
            took = perf_counter() - began
            return took, await reply.read()

    async def _statements(self) -> float:
        total = 0.0
        for url in self._metrics:
            async with self._http.get(url, headers={"accept-encoding": "identity"}) as reply:
                found = _STATEMENTS.search(await reply.text())
                total += float(found[1]) if found else 0.0
        return total


async def measure(where: Place, generations: int | None, times: int) -> list[Measured]:
    """Fill a database, start the services over it, and ask for each page. None: it was filled before."""
    url = where.postgres.url_of("console")
    if generations is not None:
        where.postgres.create_database("console")
        await _fill(where, url, generations)
    shutil.rmtree(where.folder / "stack", ignore_errors=True)
    plan = Plan(
        where.folder / "stack",
        Ports.free(),
        environment={**environment(), "DARKROOM_DATABASE_URL": url},
        settings={"DARKROOM_LOG_LEVEL": "warn"},
        services=_SERVICES,
    )
    plan.folder.mkdir(parents=True)
    stack = Stack(plan)
    await asyncio.to_thread(stack.start)
    try:
        experiment = await _experiment(stack)
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar, auto_decompress=False) as http:
            return await _all(await _Visitor(stack, http).sign_in(), experiment, times)
    finally:
        await asyncio.to_thread(stack.stop)


async def _fill(where: Place, url: str, generations: int) -> None:
    migrate.upgrade(url)
    plain = url.replace("postgresql+psycopg2", "postgresql")
    await asyncio.to_thread(fill, plain, generations, where.tell)
    await asyncio.to_thread(add, plain)
    where.tell("batches, errors, alerts, keys and records beside them")
    await _fold(url)
    where.tell("statistics added up")


async def _all(visitor: _Visitor, experiment: str, times: int) -> list[Measured]:
    return [await visitor.measure(name, path.format(experiment=experiment), times) for name, path in _PATHS.items()]


async def _fold(url: str) -> None:
    database = Database(url, size=2, statement_timeout_seconds=600, application_name="bench")
    try:
        store = StatisticsStore(database)
        while await store.fold(_FOLD):
            pass
        await database.transaction("analyze", lambda c: c.exec_driver_sql("ANALYZE statistics"))
    finally:
        await database.close()


async def _experiment(stack: Stack) -> str:
    token = stack.environment["DARKROOM_SERVICE_TOKEN"]
    channel = open_channel(f"127.0.0.1:{stack.plan.ports.grpc['experiments']}", token)
    request = experiments_pb2.CreateExperimentRequest(
        name="dev for pro",
        variants=[
            experiments_pb2.Variant(name="pro", model_identifier="flux-pro"),
            experiments_pb2.Variant(name="dev", model_identifier="flux-dev"),
        ],
        metrics=[
            experiments_pb2.Metric(
                name="avg_cost",
                role=experiments_pb2.METRIC_ROLE_PRIMARY,
                goal=experiments_pb2.METRIC_GOAL_MINIMIZE,
            )
        ],
    )
    made = await ExperimentServiceStub(channel).CreateExperiment(request, timeout=60)
    await channel.close()
    return str(made.experiment.id)
