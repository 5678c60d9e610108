"""What is measured: how each contender is started, which processes are its own, and who sends to it."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.gateway.load import GrpcClients, ImageClients
from bench.place import Place, Unavailable, environment, wait_for
from libs.common.settings import ServiceName
from sandbox.children import Child
from sandbox.launcher import Stack
from sandbox.plan import Plan, Ports
from sandbox.processes import free_port, is_used
from sandbox.simulators import CONTROL, VENDORS

Clients = GrpcClients | ImageClients
_LITELLM = Path(sys.prefix) / "litellm/bin/litellm"
_LITELLM_KEY = "sk-bench"
_QUIET = {"DARKROOM_LOG_LEVEL": "error"}
_PATH: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller")


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that serves: its own processes, its database's, and how clients reach it."""

    pids: tuple[int, ...]
    database_pids: tuple[int, ...]
    clients: Callable[[], Clients]


Start = Callable[[Place], AbstractContextManager[Running]]


def gateway_stack(place: Place, name: str, services: tuple[ServiceName, ...]) -> Stack:
    """A stack of these services on the run's Postgres, to be entered."""
    return Stack(
        Plan(
            place.folder / name,
            Ports.free(),
            environment={**environment(), "DARKROOM_DATABASE_URL": place.postgres.create_database(f"bench_{name}")},
            settings=_QUIET,
            services=services,
            adjust=_quick,
        )
    )


def _quick(catalog: dict[str, dict[str, dict[str, object]]]) -> None:
    """No account's limits: it is the gateway that is measured."""
    for provider in catalog["providers"].values():
        provider["limits"] = {"concurrent_submits": 500}


@contextmanager
def darkroom(place: Place) -> Iterator[Running]:
    """Our gateway as it is, with keys, rows and group commit."""
    with gateway_stack(place, "darkroom", ("gateway",)) as stack:
        address, key = f"127.0.0.1:{stack.plan.ports.grpc['gateway']}", stack.admin_key
        pid = stack.children["gateway"].pid
        yield Running((pid,), (place.postgres.pid,), lambda: GrpcClients(address, key))


@contextmanager
def _peer(place: Place, name: str, database_url: str) -> Iterator[Running]:
    port = free_port()
    command = ["python", "-m", "bench.gateway.peers.server", "--port", str(port), "--database", database_url]
    child = Child(name, command, environment=environment(), log=place.folder / f"{name}.log")
    child.start()
    try:
        wait_for(lambda: is_used(port), child)
        database = (place.postgres.pid,) if database_url else ()
        yield Running((child.pid,), database, lambda: GrpcClients(f"127.0.0.1:{port}", "none"))
    finally:
        child.stop(5)


def echo(place: Place) -> AbstractContextManager[Running]:
    """A bare grpc.aio server that keeps nothing."""
    return _peer(place, "echo", "")


def insert_per_call(place: Place) -> AbstractContextManager[Running]:
    """The same with one INSERT and commit for each call."""
    return _peer(place, "insert_per_call", place.postgres.create_database("bench_insert_per_call"))


@contextmanager
def darkroom_images(place: Place) -> Iterator[Running]:
    """Our OpenAI face with all behind it: the picture is made, stored, and answered."""
    with gateway_stack(place, "darkroom_images", _PATH) as stack:
        _hurry(stack)
        pids = tuple(stack.children[name].pid for name in (*_PATH, "object store"))
        url, key = f"http://127.0.0.1:{stack.plan.ports.gateway_http}", stack.admin_key
        yield Running(pids, (place.postgres.pid,), lambda: ImageClients(url, key))


@contextmanager
def litellm(place: Place) -> Iterator[Running]:
    """The LiteLLM proxy's image route, before the same simulated provider. It keeps and stores nothing."""
    if not _LITELLM.exists():
        raise Unavailable("it is not installed: make bench installs it")
    with gateway_stack(place, "litellm", ()) as stack:
        _hurry(stack)
        port = free_port()
        child = Child(
            "litellm",
            [str(_LITELLM), "--config", str(_litellm_config(place, stack)), "--port", str(port), "--host", "127.0.0.1"],
            environment={**environment(), "LITELLM_LOG": "ERROR"},
            log=place.folder / "litellm.log",
        )
        child.start()
        try:
            wait_for(lambda: is_used(port), child)
            yield Running((child.pid,), (), lambda: ImageClients(f"http://127.0.0.1:{port}", _LITELLM_KEY))
        finally:
            child.stop(5)


def _litellm_config(place: Place, stack: Stack) -> Path:
    url = f"http://127.0.0.1:{stack.plan.ports.simulators}{VENDORS['tuzi_openai']}/v1"
    upstream = {"model": "openai/dall-e-3", "api_base": url, "api_key": stack.environment["TUZI_API_KEY"]}
    content = {
        "model_list": [{"model_name": "dall-e-3", "litellm_params": upstream}],
        "general_settings": {"master_key": _LITELLM_KEY},
        "litellm_settings": {"telemetry": False},
    }
    path = place.folder / "litellm.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def _hurry(stack: Stack) -> None:
    """Let the provider answer at once."""
    url = f"http://127.0.0.1:{stack.plan.ports.simulators}{CONTROL}/behaviour"
    body = json.dumps({"task_seconds": 0}).encode()
    asked = urllib.request.Request(url, data=body, method="PUT", headers={"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10):
        pass


CREATING: dict[str, Start] = {"darkroom": darkroom, "echo": echo, "insert per call": insert_per_call}
IMAGES: dict[str, Start] = {"darkroom images": darkroom_images, "litellm images": litellm}
