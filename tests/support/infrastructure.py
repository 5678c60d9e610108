"""The real parts that tests share in one worker: a Postgres, an object store, the simulated providers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from libs.common.database import migrate
from sandbox.catalog import Adjust, simulated
from sandbox.children import Child
from sandbox.objectstore import ObjectServer
from sandbox.plan import ROOT, SHIPPED_CATALOG
from sandbox.postgres import Postgres
from sandbox.processes import free_port, is_used
from tests.support.nursery import Nursery

TEMPLATE = "template_with_schema"
BUCKET = "darkroom"
PATH = os.pathsep.join([str(ROOT), str(ROOT / "build/generated")])


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """What a worker's tests share."""

    folder: Path
    postgres: Postgres
    objects: ObjectServer
    simulators_url: str
    nursery: Nursery

    def catalog(self, folder: Path, adjust: Adjust | None) -> tuple[Path, dict[str, str]]:
        """A catalog over the simulated providers, and its credentials."""
        made = simulated(SHIPPED_CATALOG.read_text(), self.simulators_url, adjust)
        path = folder / "catalog.yaml"
        path.write_text(made.text)
        return path, dict(made.credentials)

    def object_settings(self) -> dict[str, str]:
        """The settings of the object store."""
        key, secret = self.objects.keys
        return {
            "DARKROOM_S3_ENDPOINT_URL": self.objects.endpoint_url,
            "DARKROOM_S3_ACCESS_KEY_ID": key,
            "DARKROOM_S3_SECRET_ACCESS_KEY": secret,
        }


def _await_port(child: Child, port: int) -> None:
    deadline = time.monotonic() + 30
    while not is_used(port):
        assert child.exit_code is None, child.tail
        assert time.monotonic() < deadline, f"{child.name} does not listen"
        time.sleep(0.02)


@contextmanager
def infrastructure(folder: Path) -> Iterator[Infrastructure]:
    """Start the shared parts and stop them at the end."""
    postgres = Postgres(folder / "postgres", free_port(), durable=False)
    objects = ObjectServer(folder / "objects", free_port(), log=folder / "object-store.log")
    port = free_port()
    credentials = simulated(SHIPPED_CATALOG.read_text(), "http://127.0.0.1").credentials
    simulators = Child(
        "simulators",
        ["python", "-m", "sandbox.simulators", "--port", str(port), "--folder", str(folder / "simulators")],
        environment={"PYTHONPATH": PATH, **credentials},
        log=folder / "simulators.log",
    )
    server = objects.child()
    nursery = Nursery(folder, PATH)
    try:
        simulators.start()
        objects.make_bucket(BUCKET)
        server.start()
        postgres.start()
        migrate.upgrade(postgres.create_database(TEMPLATE))
        _await_port(server, objects.port)
        _await_port(simulators, port)
        yield Infrastructure(folder, postgres, objects, f"http://127.0.0.1:{port}", nursery)
    finally:
        nursery.close()
        simulators.stop(5)
        server.stop(5)
        postgres.stop()
