"""The frame of every service: settings, logs, database, catalog, gRPC, health, reflection, metrics, loops, drain."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc
import structlog
import uvloop
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from grpc_health.v1 import health_pb2_grpc
from pydantic import ValidationError

from libs.common import VERSION, crashpoints, logging, metrics, tracing
from libs.common.catalog import CatalogFault, CatalogHolder
from libs.common.database.engine import Database
from libs.common.database.replica import ReplicaDatabase
from libs.common.errors import GenerationError
from libs.common.loop_lag import LoopLag
from libs.common.loops import Loop, Turn
from libs.common.rpc.callers import Callers
from libs.common.rpc.certificates import CertificateWatch
from libs.common.rpc.channel import open_channel
from libs.common.rpc.connection_watch import ConnectionWatch
from libs.common.rpc.credentials import PeersOnly, server_credentials
from libs.common.rpc.errors import answer_of
from libs.common.rpc.health import HealthServicer, Readiness, set_serving
from libs.common.rpc.heartbeat import Heart
from libs.common.rpc.interceptors import Before
from libs.common.rpc.metrics_server import serve_metrics
from libs.common.rpc.open_streams import OpenStreams
from libs.common.rpc.process_memory import limit_arenas, protect_memory
from libs.common.rpc.reflection import enable_reflection
from libs.common.rpc.reporting import FLUSH_SECONDS, Reporter, Send
from libs.common.rpc.server import make_server, server_options
from libs.common.rpc.shares import Limits
from libs.common.rpc.sharing import Sharing
from libs.common.rpc.standard import for_health, standard
from libs.common.settings import ServiceName, Settings, listed, load

log = structlog.get_logger()
_REPORT_SECONDS = 5.0
_REPLICA_SECONDS = 5.0
_HEALTH_RPCS = 200
# Beyond what shares let in, so that gRPC itself refuses nobody before they do, and probes nobody at all.
_PROBES = 1_000
_PROBE_CONNECTIONS = 100

Closer = Callable[[], Awaitable[None]]
Wire = Callable[["Frame"], Awaitable[None]]


class Register(Protocol):
    """A generated `add_…Servicer_to_server`."""

    def __call__(self, servicer: Any, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""


class Frame:
    """What a service is wired into. `run` makes one and hands it to the service's `wire`."""

    def __init__(self, name: ServiceName, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.owner = f"{name}:{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.database = Database.from_settings(settings, f"darkroom-{name}")
        metrics.Spend.keys = listed(settings.spend_labels)
        metrics.DATABASE_CONNECTIONS.set_function(self.database.open_connections)
        metrics.DATABASE_CONNECTIONS_IN_USE.set_function(self.database.connections_in_use)
        self.catalog = CatalogHolder(settings.catalog)
        # The look at the database has a connection of its own: work that fills the pool is not a database that is away.
        self._probe = Database(
            settings.database_url.get_secret_value(),
            size=1,
            statement_timeout_seconds=5,
            application_name=f"darkroom-{name}-readiness",
        )
        self._health = HealthServicer()
        self.open_streams = OpenStreams()
        self._callers = Callers()
        self._service_names: list[str] = []
        self._registrations: list[Callable[[grpc.aio.Server], None]] = []
        self._loops: list[Loop] = []
        self._starters: list[Closer] = []
        self._drains: list[Closer] = []
        self._closers: list[Closer] = []
        self._reloading: asyncio.Task[bool] | None = None
        self._readiness: Readiness | None = None
        self._guard: Before | None = None
        self._private_address: str | None = None
        self._send: Send | None = None
        self._stopping = asyncio.Event()
        self.lag = LoopLag()

    def reading(self) -> Database:
        """The database for reads that may be a little late and take long: a standby's, where there is one."""
        url = self.settings.database_replica_url
        if url is None:
            return self.database
        replica = ReplicaDatabase(
            url.get_secret_value(),
            primary=self.database,
            lag_seconds=self.settings.database_replica_lag_seconds,
            size=self.settings.database_pool_size,
            statement_timeout_seconds=self.settings.database_statement_timeout_seconds,
            application_name=f"darkroom-{self.name}-reading",
        )
        self.loop("replica", replica.look, interval_seconds=_REPLICA_SECONDS)
        self.on_close(replica.close)
        return replica

    def report_to(self, send: Send) -> None:
        """Hand errors to this. Without it, they go to the monitor by RPC."""
        self._send = send

    def guard(self, guard: Before, *, private_address: str | None = None) -> None:
        """Let this decide who may call: the service is the edge. Without it, other services alone may.

        `private_address`: a further one to listen at, for the process itself.
        """
        self._guard, self._private_address = guard, private_address

    def serve(self, servicer: object, register: Register, full_name: str) -> None:
        """Serve a gRPC service under its full name."""
        self._service_names.append(full_name)
        self._registrations.append(lambda server: register(servicer, server))

    def loop(self, name: str, turn: Turn, *, interval_seconds: float) -> Loop:
        """Run `turn` in the background from the start to the drain; readiness follows it."""
        made = Loop(name, turn, interval_seconds=interval_seconds)
        self._loops.append(made)
        return made

    async def set_health(self, component: str, serves: bool) -> None:
        """Answer health checks for a name of its own, for instance of a provider that the service depends on."""
        await set_serving(self._health, component, serves=serves)

    def on_start(self, start: Closer) -> None:
        """Called once, before the first RPC is answered."""
        self._starters.append(start)

    def on_drain(self, drain: Closer) -> None:
        """Called once the loops have stopped: end what is under way or give it back. RPCs are still answered."""
        self._drains.append(drain)

    def on_close(self, close: Closer) -> None:
        """Called after the last RPC was answered, the last registered first."""
        self._closers.append(close)

    async def database_answers(self, within_seconds: float) -> bool:
        """Whether the database answers in that time, asked on a connection that no work holds."""
        try:
            async with asyncio.timeout(within_seconds):
                await self._probe.ping()
        except (TimeoutError, GenerationError):
            return False
        return True

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop: what is kept open for a client is to be closed with the next answer."""
        return self._stopping.is_set()

    @property
    def is_ready(self) -> bool:
        """Whether the service says that it serves."""
        return self._readiness is not None and self._readiness.is_ready

    async def run(self) -> None:
        """Serve until a signal, then drain."""
        reporter = self._reporter()
        heart = Heart(self.database, self.name, self.owner, self.settings.log_level, lambda: self.is_ready)
        heartbeat = self.loop("heartbeat", heart.beat, interval_seconds=self.settings.heartbeat_seconds)
        self.on_close(heart.close)
        self.loop("report", reporter.flush, interval_seconds=FLUSH_SECONDS)
        certificates = CertificateWatch(self.settings, self._stopping.set)
        if certificates.is_needed:
            self.loop("certificates", certificates.look, interval_seconds=self.settings.certificate_check_seconds)
        _on_signals(self._stopping, self._reload_catalog)
        _listen(self.settings.metrics_port(self.name), lambda port: serve_metrics(port, self.settings.bind_host))
        metrics.BUILD.labels(self.name, VERSION).set(1)
        readiness = self._readiness = Readiness(
            self._health,
            self._service_names,
            database=self._probe.ping,
            loops=self._loops,
            timeout_seconds=3,
            stuck_seconds=self.settings.stuck_seconds,
        )
        connections = self._connection_watch()
        connections.start()
        self.on_close(lambda: asyncio.to_thread(connections.stop))
        self.lag.start()
        self.on_close(self.lag.stop)
        servers = self._servers()
        await readiness.begin()
        health_server = await self._serve_health()
        for start in self._starters:
            await start()
        for server in servers:
            await server.start()
        for loop in self._loops:
            loop.start()
        catalog_watch = Loop("catalog", self._watch_catalog, interval_seconds=self.settings.catalog_check_seconds)
        looking = Loop(
            "readiness", _looks(readiness, heartbeat), interval_seconds=self.settings.readiness_check_seconds
        )
        for own in (catalog_watch, looking):
            own.start()
        log.info("serving", port=self.settings.grpc_port(self.name), version=VERSION)
        await self._stopping.wait()
        await self._stop(servers, readiness, [catalog_watch, looking])
        await health_server.stop(grace=None)

    async def _stop(self, servers: list[grpc.aio.Server], readiness: Readiness, own_loops: list[Loop]) -> None:
        log.info("draining")
        await readiness.drain()
        # Whoever balances the load hears of it a little later, and sends until then.
        await asyncio.sleep(self.settings.drain_delay_seconds)
        await asyncio.gather(*(loop.stop() for loop in self._loops))
        # The server stays up meanwhile, so that probes hear NOT_SERVING and not silence.
        for drain in self._drains:
            await drain()
        await asyncio.gather(*(server.stop(grace=self.settings.drain_seconds) for server in servers))
        await asyncio.gather(*(loop.stop() for loop in own_loops))
        for close in reversed(self._closers):
            await close()
        await self._probe.close()
        await self.database.close()
        log.info("stopped")

    def _reporter(self) -> Reporter:
        """What hands this process's warnings and errors to the monitor, until the very end."""
        settings = self.settings
        send = self._send
        if send is None:
            channel = open_channel(settings.monitor_address, settings)
            send = _send_by(MonitorServiceStub(channel))
            self._closers.insert(0, channel.close)
        reporter = Reporter(
            self.name, send, entries=settings.error_buffer_entries, size_bytes=settings.error_buffer_bytes
        )
        # Closers are called the last first.
        self._closers.insert(1 if self._send is None else 0, reporter.close)
        logging.listen(reporter.take, "warn")
        return reporter

    def _servers(self) -> list[grpc.aio.Server]:
        """The server of the service's port, and that of its private address, where it has one."""
        guard = self._guard or PeersOnly(self.settings)
        settings = self.settings
        most = settings.grpc_concurrent_rpcs + settings.streams + settings.keyless_streams + _PROBES
        server = self._server(guard, Sharing.of_callers(settings, self.open_streams, self._callers), maximum_rpcs=most)
        self._open_port(server)
        if self._private_address is None:
            return [server]
        own = self._server(guard, Sharing.of_own(self.open_streams), maximum_rpcs=None)
        own.add_insecure_port(self._private_address)
        return [server, own]

    def _connection_watch(self) -> ConnectionWatch:
        """What bounds the connections of the ports at which libraries listen."""
        settings = self.settings
        total = settings.grpc_connections
        probed = Limits(_PROBE_CONNECTIONS, address=_PROBE_CONNECTIONS // 2)
        ports = (settings.metrics_port(self.name), settings.health_port)
        probe_ports = frozenset(port for port in ports if port is not None)
        limits = dict.fromkeys(probe_ports, probed)
        limits[settings.grpc_port(self.name)] = Limits(
            total, settings.grpc_connections_per_address, key=total // 4, owner=total // 2
        )
        return ConnectionWatch(limits, self._callers, settings.grpc_message_limit_bytes, probe_ports)

    def _server(self, guard: Before, sharing: Sharing, *, maximum_rpcs: int | None) -> grpc.aio.Server:
        """A server of all RPCs, without a port."""
        settings = self.settings
        server = make_server(
            interceptors=standard(
                guard,
                rpc_timeout_seconds=settings.rpc_timeout_seconds,
                write_timeout_seconds=settings.watch_write_timeout_seconds,
                sharing=sharing,
                message_seconds=settings.grpc_message_seconds,
                keyless_waiting=settings.keyless_streams,
            ),
            maximum_concurrent_rpcs=maximum_rpcs,
            options=server_options(settings, is_bounded=maximum_rpcs is not None),
        )
        for register in self._registrations:
            register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.grpc_reflection:
            enable_reflection((*self._service_names, "grpc.health.v1.Health"), server)
        return server

    async def _serve_health(self) -> grpc.aio.Server:
        """Answer for health on a port of its own, where one is set, from before the start until after the drain."""
        server = make_server(
            interceptors=for_health(
                write_timeout_seconds=self.settings.watch_write_timeout_seconds,
                sharing=Sharing.of_health(self.settings, self._callers),
            ),
            maximum_concurrent_rpcs=_HEALTH_RPCS,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        port = self.settings.health_port
        if port is not None:
            _listen(port, lambda port: server.add_insecure_port(f"{self.settings.bind_host}:{port}"))
        await server.start()
        return server

    def _open_port(self, server: grpc.aio.Server) -> None:
        host = self.settings.bind_host
        credentials = server_credentials(self.settings, is_edge=self._guard is not None)

        def listen(port: int) -> int:
            address = f"{host}:{port}"
            if credentials is not None:
                return server.add_secure_port(address, credentials)
            return server.add_insecure_port(address)

        _listen(self.settings.grpc_port(self.name), listen)

    def _reload_catalog(self) -> None:
        self._reloading = asyncio.get_running_loop().create_task(self._watch_catalog(force=True))

    async def _watch_catalog(self, *, force: bool = False) -> bool:
        outcome = await asyncio.to_thread(self.catalog.reload, force=force)
        if outcome != "unchanged":
            metrics.CATALOG_RELOADS.labels(outcome).inc()
        if outcome == "replaced":
            log.info("catalog replaced", models=len(self.catalog.current.models))
        elif outcome == "refused" and self.catalog.last_fault is not None:
            log.error("catalog refused, the old one stays", faults=self.catalog.last_fault.faults)
        return False


def _send_by(monitor: MonitorServiceStub) -> Send:
    async def send(entries: list[monitor_pb2.ErrorEntry]) -> None:
        await answer_of(monitor.LogError(monitor_pb2.LogErrorRequest(errors=entries), timeout=_REPORT_SECONDS))

    return send


def _listen(port: int, start: Callable[[int], object]) -> None:
    try:
        start(port)
    except (RuntimeError, OSError) as error:
        log.fatal("cannot start: the port cannot be taken", port=port, error=error)
        raise SystemExit(1) from error


def _looks(readiness: Readiness, heartbeat: Loop) -> Turn:
    """Look whether the service is ready, and let all know when that changes."""

    async def turn() -> bool:
        before = readiness.is_ready
        await readiness.look()
        if readiness.is_ready is not before:
            heartbeat.wake()
        return False

    return turn


def _on_signals(stopping: asyncio.Event, reload_catalog: Callable[[], None]) -> None:
    """SIGTERM and SIGINT set the event; SIGHUP reads the catalog anew."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reload_catalog)


def _settings_faults(error: ValidationError) -> str:
    faults = error.errors(include_input=False, include_url=False)
    return "\n".join(f"  DARKROOM_{'_'.join(map(str, fault['loc'])).upper()}: {fault['msg']}" for fault in faults)


def run(name: ServiceName, wire: Wire) -> None:
    """Run a service until it is told to stop. Exits 0 after a drain, and 1 with the reason where it cannot start."""
    try:
        settings = load()
    except ValidationError as error:
        raise SystemExit(f"{name} cannot start, its settings have faults:\n{_settings_faults(error)}") from error
    logging.configure(settings, name)
    limit_arenas()
    protect_memory()
    tracing.configure(name)
    crashpoints.arm(settings.crash_at)

    async def main() -> None:
        try:
            frame = Frame(name, settings)
        except CatalogFault as fault:
            log.fatal("cannot start: the catalog has faults", faults=fault.faults)
            raise SystemExit(1) from fault
        await wire(frame)
        await frame.run()

    uvloop.run(main())
    tracing.close()
