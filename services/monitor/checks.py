"""The looks at each component: the database, object storage, providers, polling, and our own services."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic, perf_counter
from typing import Any
from uuid import uuid4

import aiohttp
import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs.common.catalog import CatalogHolder, Provider
from libs.common.database.engine import Database
from libs.common.database.states import BreakerState, SubmissionState
from libs.common.database.stores.accounts import AccountStore
from libs.common.database.stores.statistics import Count, Segment, StatisticsStore
from libs.common.errors import GenerationError
from libs.common.storage.objects import ObjectStore
from services.monitor.board import LOOK_SECONDS, Check, Finding

log = structlog.get_logger()
_TRAFFIC = timedelta(minutes=5)
_MANY_FAIL, _FEW = 0.5, 5
_PROBE_SECONDS, _PROBE_AGAIN_SECONDS = 60.0, 10.0
_STORAGE_PROBE_SECONDS = 10.0
_OVERDUE_SECONDS = 60.0
_ANSWERED = {SubmissionState.ACCEPTED.value, SubmissionState.COMPLETED.value}
_SERVER_ERRORS = 500
_UNKNOWN = Finding("degraded", "Nothing is known of it while the database is away.")


class _RowsTell(Check):
    """Looks at what rows tell: without them nothing is known, and that is nobody's fault but the database's."""

    def late(self, seconds: float) -> Finding:
        """See the base."""
        del seconds
        return _UNKNOWN


class DatabaseCheck(Check):
    """One row, on a connection of its own: a pool that is full is not a database that is away."""

    def __init__(self, probe: Database) -> None:
        self._probe = probe

    def names(self) -> Sequence[str]:
        """See the base."""
        return ["database"]

    async def look(self) -> Mapping[str, Finding]:
        """See the base."""
        await self._probe.ping()
        return {"database": Finding("up")}


class StorageCheck(Check):
    """Whether the bucket is there, and takes, returns and removes objects.

    Args:
        objects: the bucket.
        probe_seconds: between two probes, which write an object; a probe that failed counts until the next one.
    """

    def __init__(self, objects: ObjectStore, *, probe_seconds: float = _STORAGE_PROBE_SECONDS) -> None:
        self._objects = objects
        self._probe_seconds = probe_seconds
        # Of this process: a replica must not remove the object before it is read.
        self._key = f"health/{uuid4().hex}"
        self._probed_at = float("-inf")
        self._failure: GenerationError | None = None

    def names(self) -> Sequence[str]:
        """See the base."""
        return ["s3"]

    async def look(self) -> Mapping[str, Finding]:
        """See the base."""
        if monotonic() - self._probed_at < self._probe_seconds:
            await self._objects.ping()
        else:
            self._probed_at = monotonic()
            self._failure = await self._probe()
        return {"s3": Finding("down", self._failure.message) if self._failure else Finding("up")}

    async def _probe(self) -> GenerationError | None:
        try:
            await self._objects.probe(self._key)
        except GenerationError as error:
            log.warning("object storage cannot be used", error=error)
            return error
        return None


class ServiceCheck(Check):
    """What a service of ours says of itself."""

    def __init__(self, name: str, channel: grpc.aio.Channel) -> None:
        self._name = f"service:{name}"
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    def names(self) -> Sequence[str]:
        """See the base."""
        return [self._name]

    async def look(self) -> Mapping[str, Finding]:
        """See the base."""
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=LOOK_SECONDS)
        except grpc.aio.AioRpcError as error:
            return {self._name: Finding("down", f"It cannot be asked: {error.code().name}.")}
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            return {self._name: Finding("down", "It says that it is not ready.")}
        return {self._name: Finding("up")}


class OwnCheck(Check):
    """What this process says of itself."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    def names(self) -> Sequence[str]:
        """See the base."""
        return ["service:monitor"]

    async def look(self) -> Mapping[str, Finding]:
        """See the base."""
        return {"service:monitor": Finding("up") if self._is_ready() else Finding("down", "It is not ready.")}


class PollingCheck(_RowsTell):
    """How far behind polling is, and who does it."""

    def __init__(self, store: StatisticsStore) -> None:
        self._store = store

    def names(self) -> Sequence[str]:
        """See the base."""
        return ["pollingService"]

    async def look(self) -> Mapping[str, Finding]:
        """See the base."""
        try:
            tasks, holders = await self._store.tasks(), await self._store.holders()
        except GenerationError:
            return {"pollingService": _UNKNOWN}
        live, overdue = sum(task.live for task in tasks), max((task.overdue_seconds for task in tasks), default=0.0)
        held = ", ".join(f"{owner} ({number})" for owner, number in holders.items()) or "nobody"
        message = f"{live} tasks live, the longest due for {overdue:.0f} s, held by {held}."
        return {"pollingService": Finding("degraded" if overdue > _OVERDUE_SECONDS else "up", message)}


class AdapterChecks(_RowsTell):
    """Each provider account: from what was sent lately, and where nothing was, from whether its host answers."""

    def __init__(self, catalog: CatalogHolder, accounts: AccountStore, statistics: StatisticsStore) -> None:
        self._catalog = catalog
        self._accounts = accounts
        self._statistics = statistics
        self._session: aiohttp.ClientSession | None = None
        self._probed: dict[str, tuple[float, Finding]] = {}

    def names(self) -> Sequence[str]:
        """See the base."""
        return [f"adapter:{provider}" for provider in self._catalog.current.providers]

    async def look(self) -> Mapping[str, Finding]:
        """See the base."""
        try:
            return await self._found()
        except GenerationError:
            return dict.fromkeys(self.names(), _UNKNOWN)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _found(self) -> Mapping[str, Finding]:
        circuits = {account.provider_id: account.breaker_state for account in await self._accounts.read()}
        now = datetime.now(UTC)
        sent: dict[str, list[Count]] = defaultdict(list)
        for count in await self._statistics.read([Segment("minute", now - _TRAFFIC, now)]):
            if count.kind == "submission_ended":
                sent[count.provider_id].append(count)
        providers = self._catalog.current.providers
        findings = await asyncio.gather(
            *(self._finding(provider, circuits.get(name), sent.get(name, [])) for name, provider in providers.items())
        )
        return {f"adapter:{name}": finding for name, finding in zip(providers, findings, strict=True)}

    async def _finding(self, provider: Provider, circuit: BreakerState | None, sent: list[Count]) -> Finding:
        if circuit is not None and circuit is not BreakerState.CLOSED:
            return Finding("down", "Its circuit is open: what was sent to it lately has failed.")
        if not sent:
            return await self._probe(provider)
        number = sum(count.count for count in sent)
        failed = sum(count.count for count in sent if count.outcome not in _ANSWERED)
        average_ms = sum(count.seconds for count in sent) / number * 1_000
        message = f"{number} submits in 5 min, {failed} of them failed."
        is_bad = number >= _FEW and failed / number > _MANY_FAIL
        return Finding("degraded" if is_bad else "up", message, average_ms)

    async def _probe(self, provider: Provider) -> Finding:
        """Whether anything answers there. It costs nothing: no credentials are sent and nothing is asked for."""
        asked_at, before = self._probed.get(provider.id, (float("-inf"), Finding("up")))
        if monotonic() - asked_at < (_PROBE_SECONDS if before.status == "up" else _PROBE_AGAIN_SECONDS):
            return before
        found = await self._ask(str(provider.base_url))
        self._probed[provider.id] = (monotonic(), found)
        return found

    async def _ask(self, url: str) -> Finding:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        started = perf_counter()
        try:
            async with self._session.get(
                url, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=LOOK_SECONDS * 0.6)
            ) as response:
                took_ms = (perf_counter() - started) * 1_000
                if response.status >= _SERVER_ERRORS:
                    return Finding("down", f"Nothing was sent lately, and its host answers {response.status}.", took_ms)
                return Finding("up", "Nothing was sent lately, and its host answers.", took_ms)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Finding("down", f"Nothing was sent lately, and its host cannot be reached: {type(error).__name__}.")
