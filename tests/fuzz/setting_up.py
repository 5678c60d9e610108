"""The stack that is fuzzed, with something of everything in it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from darkroom.experiments.v1.experiments_pb2_grpc import ExperimentServiceStub
from darkroom.gateway.v1 import admin_pb2, gateway_pb2
from darkroom.monitor.v1 import monitor_pb2
from darkroom.monitor.v1.monitor_pb2_grpc import MonitorServiceStub

from libs.common.settings import ServiceName
from tests.fuzz.console import Console
from tests.fuzz.openai import OpenAi
from tests.fuzz.rest import Rest
from tests.fuzz.rpcs import Rpcs, methods_of
from tests.fuzz.webhooks import Webhooks
from tests.fuzz.world import World, data_url
from tests.support.console import SESSION, VISITOR, visitor
from tests.support.experiments import create_request
from tests.support.http import call
from tests.support.running import Running
from tests.support.simulator import FAILS, simulated
from tests.support.waiting import eventually

SERVICES: tuple[ServiceName, ...] = ("gateway", "dispatcher", "poller", "monitor", "experiments")
SETTINGS = {
    # Most keys of cases are wrong; how their answers are delayed has tests of its own.
    "DARKROOM_WRONG_KEY_DELAY_SECONDS": "0",
    "DARKROOM_OPENAI_WAIT_SECONDS": "2",
    "DARKROOM_SWEEP_SECONDS": "1",
    "DARKROOM_READINESS_CHECK_SECONDS": "2",
    "DARKROOM_HEALTH_CHECK_SECONDS": "3",
    "DARKROOM_CATALOG_CHECK_SECONDS": "2",
    "DARKROOM_LOG_LEVEL": "info",
}
POOR = "fuzz-poor"
# Valid requests become generations at simulated providers: as many as keep these busy, and no more.
_QUOTA = {"requests_per_minute": 240, "live_generations": 20}
_TASKS = ("flux-schnell", "flux-pro", "kling-v1-6", "pollo-v1-6", "flux-dev-fal")
_PAGES = ("", "/generations", "/submissions", "/batches", "/monitoring/errors", "/monitoring/alerts", "/experiments", "/experiments/new",
          "/models", "/playground?model=flux-pro", "/keys", "/audit", "/generations/{id}", "/batches/{batch_id}",
          "/experiments/{experiment}")  # fmt: skip


@dataclass
class Grammars:
    """What makes cases, by face."""

    world: World
    rest: Rest
    openai: OpenAi
    webhooks: Webhooks
    console: Console
    rpcs: Rpcs


async def grammars(running: Running) -> Grammars:
    """Fill the stack, and make the grammars of all faces from what it serves."""
    world = await _world(running)
    document = json.loads((await call(running.gateway_url(), "/api/openapi.json")).body)
    methods = await asyncio.to_thread(methods_of, f"127.0.0.1:{running.gateway_port()}")
    console = await _console(running, world)
    return Grammars(world, Rest(document, world), OpenAi(world), Webhooks(world), console, Rpcs(methods, world))


async def _world(running: Running) -> World:
    client = await running.new_key("fuzz-client", quota=admin_pb2.ApiKeyQuota(**_QUOTA))
    poor = await running.new_key(POOR, quota=admin_pb2.ApiKeyQuota(monthly_budget_usd=0))
    admin = await running.new_key(
        "fuzz-admin", role=admin_pb2.API_KEY_ROLE_ADMIN, quota=admin_pb2.ApiKeyQuota(**_QUOTA)
    )
    # Cases revoke and change these.
    spare = [(await running.new_key("fuzz-spare")).api_key.id for _ in range(5)]
    world = World({"client": client.key, "poor": poor.key, "admin": admin.key})
    environment = running.stack.plan.environment
    for name in ("REPLICATE_WEBHOOK_SECRET", "BFL_WEBHOOK_SECRET", "POLLO_WEBHOOK_SECRET"):
        world.secrets[name] = environment[name]
    world.secrets["FAL_SEED"] = environment["FAL_KEY"]
    quick = simulated("a red apple", task_seconds=0)
    world.values = {
        "keys": spare, "owners": ["fuzz-client", "fuzz-spare", "nobody"], "prompts": [quick, "a red apple"],
        "images": [data_url()],
        "urls": ["https://example.com/a.png", "http://127.0.0.1:9/callback"], "variants": ["variant_0", "variant_1"],
        "channels": ["log", "webhook"],
        "providers": ["bfl", "replicate", "kling", "fal", "pollo", "tuzi"],
        "tokens": ["", "1", "AAAA", "gen_00000000000000000000000000"],
    }  # fmt: skip
    await _fill(running, world, client.key, quick)
    return world


async def _fill(running: Running, world: World, key: str, quick: str) -> None:
    listed = await call(running.gateway_url(), "/api/external/models", key=key)
    world.values["models"] = [model["identifier"] for model in listed.json["models"]]
    made = [await running.create("flux-pro", quick, labels={"a": "b"}, user_id="u1") for _ in range(2)]
    made.append(await running.create("flux-pro", simulated("a storm", task_seconds=0, faults=FAILS)))
    for one in made:
        await running.ended(one)
    slow = [await running.create(model, simulated("slow", task_seconds=3_600)) for model in _TASKS]
    world.values["tasks"] = [await _task(running, one) for one in slow]
    for owner in ("client", "poor"):
        answer = await call(running.gateway_url(), "/api/external/generation", method="POST", key=world.keys[owner],
                            json_body={"modelIdentifier": "flux-pro", "prompt": quick})  # fmt: skip
        made += [answer.json["id"]] if answer.status == 200 else []
    world.values["generations"] = made + slow
    requests = [gateway_pb2.CreateGenerationRequest(model_identifier="flux-dev", prompt=quick) for _ in range(3)]
    world.values["batches"] = [
        (await running.gateway.CreateBatch(gateway_pb2.CreateBatchRequest(requests=requests), timeout=60)).batch_id
        for _ in range(2)
    ]
    experiments = ExperimentServiceStub(running.channel("experiments"))
    world.values["experiments"] = [
        (await experiments.CreateExperiment(create_request(), timeout=60)).experiment.id for _ in range(3)
    ]
    alert = monitor_pb2.SendAlertRequest(
        type="FUZZ", severity=monitor_pb2.ALERT_SEVERITY_WARNING, message="for the fuzzer"
    )
    world.values["alerts"] = [(await MonitorServiceStub(running.channel("monitor")).SendAlert(alert, timeout=60)).id]
    submissions = await running.gateway.ListSubmissions(
        gateway_pb2.ListSubmissionsRequest(generation_id=made[0]), timeout=60
    )
    world.values["submissions"] = [one.id for one in submissions.submissions]


async def _task(running: Running, generation_id: str) -> str:
    async def found() -> str:
        return (await running.get(generation_id)).provider_task_id

    return await eventually(found, within=20, what="the task was handed over")


async def _console(running: Running, world: World) -> Console:
    names = {
        "id": world.values["generations"][0],
        "batch_id": world.values["batches"][0],
        "experiment": world.values["experiments"][0],
    }
    cookies: dict[str, bytes] = {}
    tokens: dict[str, str] = {}
    async with visitor(running.gateway_url()) as stranger:
        tokens["nobody"] = (await stranger.get("/admin/sign-in")).token
        for role in ("nobody", "client", "poor"):
            cookies[role] = f"{VISITOR}={stranger.cookies[VISITOR]}".encode()
    async with visitor(running.gateway_url()) as operator:
        tokens["admin"] = await operator.sign_in(world.keys["admin"])
        cookies["admin"] = f"{SESSION}={operator.cookies[SESSION]}".encode()
        pages = [(await operator.get("/admin" + path.format(**names))).text for path in _PAGES]
    world.secrets["session"] = cookies["admin"].decode().partition("=")[2]
    return Console(world, pages, cookies, tokens)
