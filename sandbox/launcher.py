"""Starts the whole stack on one machine, waits until each part is healthy, and stops all of it again."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from libs.common.catalog import CatalogFault
from libs.common.database import migrate
from libs.common.settings import ServiceName, Settings
from sandbox import processes
from sandbox.catalog import simulated
from sandbox.children import Child, Show
from sandbox.health import health
from sandbox.objectstore import ObjectServer
from sandbox.plan import ROOT, SHIPPED_ALERT_RULES, SHIPPED_CATALOG, Plan
from sandbox.postgres import Postgres, PostgresFailed
from sandbox.processes import Start
from sandbox.secrets import secrets_of

POSTGRES = "postgres"
_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
# A laptop's stack does not wait minutes for a simulated provider when it is stopped.
_DRAIN = {"DARKROOM_DRAIN_SECONDS": "10", "DARKROOM_SUBMIT_DRAIN_SECONDS": "15"}


class StackFailed(RuntimeError):
    """A part did not start, or ended by itself. The message says which and why."""


class Stack:
    """All parts of one plan.

    Args:
        plan: what to start.
        tell: is told each step.
        show: is given each line that the services log.
        start: starts their processes.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        tell: Callable[[str], None] = lambda _: None,
        show: Show | None = None,
        start: Start = processes.start,
    ) -> None:
        self.plan = plan
        self.environment: dict[str, str] = {}
        self.children: dict[str, Child] = {}
        self.replica_ports: dict[str, dict[str, str]] = {}
        self.postgres: Postgres | None = None
        self._tell = tell
        self._show = show
        self._start = start
        self._pids = processes.PidFile(plan.folder / "processes")
        self._lock: io.TextIOWrapper | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything. StackFailed with the reason where a part does not start; nothing is left running then."""
        try:
            self._take_folder()
            self._check_ports()
            self._start_parts()
        except BaseException as error:
            self.stop()
            if isinstance(error, PostgresFailed | CatalogFault | SQLAlchemyError | OSError):
                raise StackFailed(str(error)) from error
            raise

    def stop(self) -> None:
        """Stop everything, the services first."""
        services = [child for name, child in self.children.items() if name.startswith(self.plan.services)]
        others = [child for child in self.children.values() if child not in services]
        for group in (services, others):
            with ThreadPoolExecutor(max(1, len(group))) as pool:
                list(pool.map(lambda child: child.stop(_STOP_SECONDS), group))
        if self.postgres is not None:
            self.postgres.stop()
        if self._lock is not None:
            self._pids.forget()
            self._lock.close()
            self._lock = None

    def cut_off(self) -> None:
        """Stop everything as a power cut would: for who needs nothing of it any more."""
        for child in self.children.values():
            if child.exit_code is None:
                child.send(signal.SIGKILL)
        if self.postgres is not None:
            self.postgres.stop(immediate=True)
        self.stop()

    def ended(self) -> dict[str, str]:
        """The parts that have ended by themselves, each with its exit code and last words."""
        found = {
            name: f"{name} has ended with code {child.exit_code}. Its last lines:\n{child.tail}"
            for name, child in self.children.items()
            if child.exit_code is not None
        }
        if self.postgres is not None and not self.postgres.is_running:
            found[POSTGRES] = "postgres has ended"
        return found

    @property
    def admin_key(self) -> str:
        """The first admin key."""
        return self.environment["DARKROOM_ADMIN_KEY"]

    def restart(self, name: str) -> None:
        """Start a part anew that has ended. StackFailed where it does not start."""
        if name == POSTGRES and self.postgres is not None:
            try:
                self.postgres.start()
            except PostgresFailed as error:
                raise StackFailed(str(error)) from error
            self._pids.add(self.postgres.pid)
        else:
            self._pids.add(self.children[name].start())

    def kill(self, name: str) -> None:
        """End a part as a power cut would; it does not come back by itself."""
        if name == POSTGRES and self.postgres is not None:
            self.postgres.stop(immediate=True)
        else:
            self.children[name].kill()

    def add_replica(self, name: ServiceName) -> str:
        """Start one more of a service, on ports of its own, and answer the name under which it is kept."""
        replica = f"{name}-{sum(child.startswith(name) for child in self.children) + 1}"
        ports = {
            f"DARKROOM_{name.upper()}_PORT": str(processes.free_port()),
            f"DARKROOM_{name.upper()}_METRICS_PORT": str(processes.free_port()),
            **({"DARKROOM_GATEWAY_HTTP_PORT": str(processes.free_port())} if name == "gateway" else {}),
        }
        self.replica_ports[replica] = ports
        self.add(replica, ["python", "-m", f"services.{name}"], self.environment | ports)
        return replica

    def add(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> Child:
        """Start one more process, without waiting until it is ready, and stop it with the others.

        Args:
            name: under which it and its log are kept.
            command: what to run.
            environment: its variables; those of the stack by default.
        """
        log = self.plan.folder / f"logs/{name}.log"
        made = Child(
            name, command, environment=environment or self.environment, log=log, show=self._show, start=self._start
        )
        return self._remember(name, made)

    def start_service(self, name: ServiceName, extra: Mapping[str, str] | None = None) -> None:
        """Start a service anew after it has ended."""
        self._pids.add(self.children[name].start(extra))

    def wait_until_ready(self, name: ServiceName) -> None:
        """Answer once a service says that it serves. StackFailed where it does not in time."""
        deadline = time.monotonic() + _START_SECONDS
        while health(self.plan.ports.grpc[name]) != "SERVING":
            if self.children[name].exit_code is not None:
                raise StackFailed(f"{name} did not start. Its last lines:\n{self.children[name].tail}")
            if time.monotonic() > deadline:
                raise StackFailed(f"{name} is not ready. Its last lines:\n{self.children[name].tail}")
            time.sleep(0.05)

    def _take_folder(self) -> None:
        self.plan.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.plan.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StackFailed(f"a stack runs on {self.plan.folder} already; stop that one first") from error
        self._lock = lock
        left = self._pids.stop_leftovers()
        if left:
            self._tell(f"stopped {left} processes that an earlier run left behind")

    def _check_ports(self) -> None:
        taken = [
            f"{port} ({name} moves it)" for name, port in self.plan.needed_ports().items() if processes.is_used(port)
        ]
        if taken:
            raise StackFailed(f"ports are in use: {', '.join(taken)}")

    def _start_parts(self) -> None:
        database_url = self._start_postgres()
        environment = self._base_environment() | {"DARKROOM_DATABASE_URL": database_url}
        environment |= secrets_of(self.plan)
        environment |= self._start_object_store() | self._start_providers()
        console = {"DARKROOM_CONSOLE_URL": f"http://127.0.0.1:{self.plan.ports.gateway_http}/admin"}
        self.environment = {**console, **environment, **_DRAIN, **self.plan.ports.variables(), **self.plan.settings}
        self._tell("database schema")
        migrate.upgrade(database_url, self.plan.schema)
        if self.plan.object_store_url is not None and not self.plan.has_bucket:
            self._make_bucket()
        for name in self.plan.services:
            self.add(name, ["python", "-m", f"services.{name}"])
        for name in self.plan.services:
            self.wait_until_ready(name)
            self._tell(f"{name} on 127.0.0.1:{self.plan.ports.grpc[name]}")

    def _base_environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "build/generated")]),
            "DARKROOM_ALERT_RULES": str(SHIPPED_ALERT_RULES),
            **self.plan.environment,
        }

    def _start_postgres(self) -> str:
        if self.plan.database_url is not None:
            self._tell("database of your own, DARKROOM_DATABASE_URL")
            return self.plan.database_url
        self.postgres = Postgres(self.plan.folder / "postgres", self.plan.ports.postgres, durable=self.plan.durable)
        self.postgres.start()
        self._pids.add(self.postgres.pid)
        self._tell(f"postgres on 127.0.0.1:{self.plan.ports.postgres}")
        return self.postgres.url

    def _start_object_store(self) -> dict[str, str]:
        if self.plan.object_store_url is not None:
            self._tell("object store of your own, DARKROOM_S3_ENDPOINT_URL")
            return {}
        server = ObjectServer(
            self.plan.folder / "objects", self.plan.ports.object_store, log=self.plan.folder / "logs/object-store.log"
        )
        server.make_bucket(Settings.model_fields["s3_bucket"].default)
        child = self._remember("object store", server.child())
        self._wait_for_port(child, server.port)
        self._tell(f"object store on {server.endpoint_url}")
        key, secret = server.keys
        return {
            "DARKROOM_S3_ENDPOINT_URL": server.endpoint_url,
            "DARKROOM_S3_ACCESS_KEY_ID": key,
            "DARKROOM_S3_SECRET_ACCESS_KEY": secret,
        }

    def _start_providers(self) -> dict[str, str]:
        if self.plan.catalog is not None:
            self._tell(f"real providers of {self.plan.catalog}")
            return {"DARKROOM_CATALOG": str(self.plan.catalog)}
        port = self.plan.ports.simulators
        made = simulated(SHIPPED_CATALOG.read_text(), f"http://127.0.0.1:{port}", self.plan.adjust)
        path = self.plan.folder / "catalog.yaml"
        path.write_text(made.text)
        command = ["python", "-m", "sandbox.simulators", "--port", str(port)]
        child = self.add(
            "simulators",
            [*command, "--folder", str(self.plan.folder / "simulators")],
            self._base_environment() | dict(made.credentials),
        )
        self._wait_for_port(child, port)
        self._tell(f"simulated providers on http://127.0.0.1:{port}")
        callback = {"DARKROOM_PUBLIC_URL": f"http://127.0.0.1:{self.plan.ports.gateway_http}"}
        return {"DARKROOM_CATALOG": str(path), **made.credentials, **callback}

    def _make_bucket(self) -> None:
        made = subprocess.run(
            [sys.executable, "-m", "libs.common.storage.bucket"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        if made.returncode:
            raise StackFailed(f"DARKROOM_S3_ENDPOINT_URL: {made.stderr.strip()}")

    def _remember(self, name: str, child: Child) -> Child:
        self.children[name] = child
        self._pids.add(child.start())
        return child

    def _wait_for_port(self, child: Child, port: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not processes.is_used(port):
            if child.exit_code is not None or time.monotonic() > deadline:
                raise StackFailed(f"{child.name} did not start. Its last lines:\n{child.tail}")
            time.sleep(0.05)
